"""The programs of docs/predict.md run: with a fake camera, and those without edgemim in a process that has none."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from edgemim.runtime import load
from edgemim.runtime.check import check_bundle

DOCUMENT = Path(__file__).parents[3] / "docs" / "predict.md"
NO_EDGEMIM = "import sys; sys.modules['edgemim'] = None\n"


def program(title: str) -> str:
    """The code block whose first line is a comment with this title."""
    (found,) = re.findall(rf"```python\n# {re.escape(title)}\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    return str(found)


@pytest.fixture
def project(
    world: SimpleNamespace, linear: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., SimpleNamespace]:
    """A folder with `runs/bundle`, its report of fp32 on one backend, and `cat.jpg`; it is the working folder."""
    pytest.importorskip("onnx", reason="needs onnx to make a model")

    def make(backend: str, encoding: str = "normalised") -> SimpleNamespace:
        pytest.importorskip(backend, reason=f"needs {backend}")
        encode = partial(linear, encoding=encoding)
        bundle = world.bundle(name="runs/bundle", encode=encode, encoding=encoding, evaluation=None)
        options = {"backends": [backend], "candidates": ["fp32"], "threads": 1, "seconds": 0.0, "runs": 4}
        check_bundle(bundle, world.tmp / "runs/bundle-report", cache=world.tmp / "cache", probe=False, **options)
        picture = np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)
        Image.fromarray(picture).save(world.tmp / "cat.jpg")
        monkeypatch.chdir(world.tmp)
        monkeypatch.setenv("XDG_CACHE_HOME", str(world.tmp / "user-cache"))
        return SimpleNamespace(folder=world.tmp, picture=world.tmp / "cat.jpg", bundle=bundle)

    return make


class FakeCamera:
    """Frames of one colour each, in BGR, every 2 ms; then the end."""

    count = 40

    def __init__(self, number: int) -> None:
        assert number == 0
        self.frames = 0

    def read(self) -> tuple[bool, np.ndarray | None]:
        time.sleep(0.002)
        self.frames += 1
        if self.frames > self.count:
            return False, None
        return True, np.full((48, 64, 3), (self.frames, 0, 200), dtype=np.uint8)


def test_the_camera_loop_shows_the_newest_frame_and_counts_what_it_dropped(
    project: Callable[..., SimpleNamespace], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project("onnxruntime")
    cv2 = ModuleType("cv2")
    cv2.VideoCapture = FakeCamera  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cv2", cv2)
    space: dict[str, object] = {}
    exec(compile(program("camera"), "camera", "exec"), space)
    form = re.compile(r"class \d \d\.\d\d, (\d+\.\d) ms after the frame, (\d+) dropped")
    lines = [form.fullmatch(line) for line in capsys.readouterr().out.splitlines()]
    assert lines
    assert all(lines)
    dropped = sum(int(line[2]) for line in lines if line)
    assert len(lines) + dropped == FakeCamera.count
    # Red and blue are where the model expects them: the last frame is in OpenCV's order.
    last = np.full((48, 64, 3), (200, 0, FakeCamera.count), dtype=np.uint8)
    with load("runs/bundle") as model:
        expected = model.predict(last)[0][0]
    assert space["best"] == expected


def test_the_folder_loop_takes_every_picture_once_and_tells_what_is_none(
    project: Callable[..., SimpleNamespace], capsys: pytest.CaptureFixture[str]
) -> None:
    made = project("onnxruntime")
    inbox = made.folder / "inbox"
    inbox.mkdir()
    (inbox / "a.jpg").write_bytes(made.picture.read_bytes())
    (inbox / "b.jpg").write_bytes(b"no picture")

    def later() -> None:
        time.sleep(0.5)
        (inbox / "c.jpg").write_bytes(made.picture.read_bytes())
        time.sleep(0.5)
        (inbox / "stop").touch()

    writer = threading.Thread(target=later)
    writer.start()
    exec(compile(program("folder"), "folder", "exec"), {})
    writer.join()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines if line.startswith(("a.", "c."))] == ["a.jpg", "c.jpg"]
    (other,) = [line for line in lines if not line.startswith(("a.", "c."))]
    assert "b.jpg is not an image that can be read" in other


def test_a_program_without_edgemim_gives_the_same_outputs(project: Callable[..., SimpleNamespace]) -> None:
    assert_same(project("onnxruntime"), "onnxruntime")


def test_a_program_without_edgemim_leaves_normalising_to_a_graph_that_takes_pixels(
    project: Callable[..., SimpleNamespace],
) -> None:
    assert_same(project("onnxruntime", "pixels"), "onnxruntime")


def test_a_program_without_edgemim_runs_the_engine_of_the_report(project: Callable[..., SimpleNamespace]) -> None:
    assert_same(project("openvino"), "openvino")


def assert_same(made: SimpleNamespace, backend: str) -> None:
    """The programs of the document, in a process of their own, against `load`."""
    code = NO_EDGEMIM + program("what is chosen, and an image as it takes it") + program(backend)
    code += "np.save('outputs.npy', outputs)\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=made.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with load("runs/bundle-report") as model:
        expected = model(made.picture)
    np.testing.assert_allclose(np.load(made.folder / "outputs.npy"), expected, rtol=1e-4, atol=1e-5)
