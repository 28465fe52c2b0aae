"""`edgemim.runtime.load`: which candidate is opened, what a call returns, and that threads may share it."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgemim.artifact import load_artifact, seal
from edgemim.errors import ArtifactError, ConfigError, DataError, DeviceError
from edgemim.runtime import load
from edgemim.runtime.check import check_bundle
from edgemim.runtime.predict.model import Model

pytestmark = pytest.mark.usefixtures("quick", "no_vendor")


@pytest.fixture
def opened(world: SimpleNamespace) -> Callable[..., Model]:
    """Load a bundle or a report on the fake backend."""

    def open_(path: Path, **options: Any) -> Model:
        faults = options.pop("faults", None)
        return load(path, **{"backend": world.Fake(faults), "cache": world.tmp / "cache", **options})

    return open_


@pytest.fixture
def checked(world: SimpleNamespace) -> Callable[..., Path]:
    """Check a bundle on the fake backend, int8 being slower; gives the folder of the report."""

    def check(bundle: Path, out: Path | None = None, **options: Any) -> Path:
        out = out or bundle.with_name(f"{bundle.name}-report")
        plain = {"backends": [world.Fake(slower_s={"int8-nncf": 0.001})], "seconds": 0, "runs": 64}
        check_bundle(bundle, out, cache=world.tmp / "cache", **{**plain, **options})
        return out

    return check


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None], name: str = "report.json") -> None:
    """Change a JSON file of an artifact and seal it again, as if it had been written so."""
    artifact = load_artifact(folder)
    content = dict(artifact.content)
    if name == "content":
        change(content)
    else:
        values = json.loads((folder / name).read_text("utf-8"))
        change(values)
        (folder / name).write_text(json.dumps(values), "utf-8")
    seal(folder, artifact.kind, list(artifact.files), content=content, provenance=artifact.provenance)


def logits(world: SimpleNamespace, images: list[Any], name: str = "fp32") -> np.ndarray:
    """What the candidate gives, computed here."""
    pixels = np.stack([world.contract.pixels(Image.fromarray(image)) for image in images])
    return world.contract.normalise(pixels).reshape(len(images), -1) @ world.weights[name]


def frames(*sizes: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


@pytest.mark.parametrize(("encoding", "batch"), [("normalised", 1), ("pixels", 3)])
def test_images_of_any_size_and_number_give_the_outputs_of_the_candidate(
    world: SimpleNamespace, opened: Callable[..., Model], encoding: str, batch: int
) -> None:
    model = opened(world.bundle(encoding=encoding, batch=batch), candidate="int8-nncf")
    images = frames((8, 8), (40, 31), (9, 100), (500, 20), (8, 8))
    found = model(images)
    assert (found.dtype, found.shape) == (np.float32, (5, 5))
    np.testing.assert_allclose(found, logits(world, images, "int8-nncf"), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(model(images[1]), found[1:2])
    np.testing.assert_array_equal(model(Image.fromarray(images[1])), found[1:2])
    np.testing.assert_array_equal(model(np.stack([images[0], images[4]])), found[[0, 4]])
    assert model([]).shape == (0, 5)


def test_predict_names_the_likeliest_classes(world: SimpleNamespace, opened: Callable[..., Model]) -> None:
    model, images = opened(world.bundle(), candidate="fp32"), frames((20, 20), (8, 9))
    raw = logits(world, images).astype(np.float64)
    scores = np.exp(raw) / np.exp(raw).sum(axis=1, keepdims=True)
    for answer, expected in zip(model.predict(images, top=3), scores, strict=True):
        assert [label.index for label in answer] == np.argsort(-expected)[:3].tolist()
        assert [label.name for label in answer] == [f"class {label.index}" for label in answer]
        assert [label.score for label in answer] == pytest.approx(np.sort(expected)[::-1][:3].tolist(), rel=1e-4)
    assert len(model.predict(images[0])[0]) == 5  # there are no more


def test_a_model_without_classes_embeds_and_does_not_predict(
    world: SimpleNamespace, opened: Callable[..., Model]
) -> None:
    def headless(content: dict[str, Any]) -> None:
        content["class_names"], content["output"]["name"] = None, "tokens"

    # The fake's second output has the width of its input; the golden outputs are cut to fit.
    path = world.bundle(evaluation=None, change=lambda c: c.update(class_names=None))
    assert opened(path, candidate="fp32").predict(frames((8, 8)))[0][0].name.isdigit()
    path = world.bundle(name="other", evaluation=None, change=headless)
    with pytest.raises(DeviceError, match=r"fp32 on fake cannot be used: its outputs have the shape"):
        opened(path, candidate="fp32")


def test_one_bad_image_among_good_ones_is_named(world: SimpleNamespace, opened: Callable[..., Model]) -> None:
    with pytest.raises(DataError, match=r"these bytes is not an image"):
        opened(world.bundle(), candidate="fp32")([*frames((8, 8)), b"torn"])


def test_a_report_opens_what_it_chose_with_its_threads(
    world: SimpleNamespace, opened: Callable[..., Model], checked: Callable[..., Path]
) -> None:
    report = checked(world.bundle(), world.tmp / "elsewhere", threads=3)
    model = opened(report)
    assert (model.candidate, model.backend, model.threads) == ("fp32", "fake", 3)
    assert model.chosen_by == f"chosen by the check in {report}"
    assert opened(report, threads=1).threads == 1
    assert opened(report, candidate="int8-nncf").candidate == "int8-nncf"


def test_a_bundle_opens_what_its_report_chose(
    world: SimpleNamespace, opened: Callable[..., Model], checked: Callable[..., Path]
) -> None:
    path = world.bundle()
    checked(path, backends=[world.Fake(slower_s={"fp32": 0.002})], gates={"p50_ms": 1.5})
    model = opened(path)
    assert model.candidate == "int8-nncf"
    assert "bundle-report" in model.chosen_by
    assert opened(path, candidate="fp32").chosen_by == "asked for"


def test_a_report_that_was_moved_with_its_bundle_is_followed(
    world: SimpleNamespace, opened: Callable[..., Model], checked: Callable[..., Path]
) -> None:
    path = world.bundle()
    report = checked(path)
    (world.tmp / "new").mkdir()
    for folder in (path, report):
        shutil.move(folder, world.tmp / "new" / folder.name)
    assert opened(world.tmp / "new" / report.name).candidate == "fp32"


def test_the_choice_of_the_bundle_counts_where_no_report_fits(
    world: SimpleNamespace, opened: Callable[..., Model], checked: Callable[..., Path]
) -> None:
    path = world.bundle()
    chosen = {"name": "int8-nncf", "backend": "onnxruntime", "options": {}}
    rewrite(path, lambda content: content.update(choice={"chosen": chosen}), "content")
    assert opened(path).candidate == "int8-nncf"
    report = checked(path)
    assert opened(path).candidate == "fp32"
    rewrite(report, lambda values: values["device"].update(cpu="another"))
    model = opened(path)
    assert (model.candidate, model.chosen_by) == ("int8-nncf", "chosen when the bundle was made")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (None, "was not checked on this device, and names no choice"),
        ({"device": {}}, r"was not checked on this device \(bundle-report is of another one\)"),
        ({"bundle": {"path": "x", "fingerprint": "0"}}, r"\(bundle-report is about another bundle\)"),
        ({"chosen": None, "verdict": "nothing ships: slow"}, r"bundle-report chose nothing \(nothing ships: slow\)"),
    ],
)
def test_without_a_choice_the_candidates_are_listed(
    world: SimpleNamespace, opened: Callable[..., Model], checked: Callable[..., Path], change: Any, told: str
) -> None:
    path = world.bundle()
    if change is not None:
        rewrite(checked(path), lambda values: values.update(change))
    with pytest.raises(ConfigError, match=told) as caught:
        opened(path)
    assert "name one of its candidates (fp32, bf16, int8-nncf, int8-nncf-bf16), or run: edgemim check" in str(
        caught.value
    )


def test_a_report_whose_bundle_is_gone_or_altered_is_refused(
    world: SimpleNamespace, opened: Callable[..., Model], checked: Callable[..., Path]
) -> None:
    path = world.bundle()
    report = checked(path, world.tmp / "report")
    other = world.bundle(name="other", gates={"p50_ms": 1.0})
    path.rename(world.tmp / "kept")
    with pytest.raises(ArtifactError, match=r"is about the bundle .*bundle, which is gone"):
        opened(report)
    other.rename(path)
    with pytest.raises(ArtifactError, match=r"is about another bundle than .*bundle is now"):
        opened(report)
    with pytest.raises(ArtifactError, match="is a onnx; here a bundle is needed"):
        opened(world.onnx().path)


def test_a_report_that_holds_nothing_to_gates_chooses_nothing(
    world: SimpleNamespace, opened: Callable[..., Model], checked: Callable[..., Path]
) -> None:
    path = world.bundle()
    report = checked(path, judge=False)
    with pytest.raises(ConfigError, match=r"is a report of the kind 'bench', which chooses nothing; name one of"):
        opened(report)
    with pytest.raises(ConfigError, match=r"bundle was not checked on this device, and names no choice"):
        opened(path)
    assert opened(report, candidate="fp32").candidate == "fp32"


@pytest.mark.parametrize(("fault", "told"), [("wrong", "the cosine|differ from"), ("compile", "unknown operator")])
def test_an_engine_that_computes_something_else_is_never_returned(
    world: SimpleNamespace, opened: Callable[..., Model], fault: str, told: str
) -> None:
    backend = world.Fake({"fp32": fault})
    with pytest.raises(DeviceError, match=told):
        opened(world.bundle(), candidate="fp32", backend=backend)
    assert all(session.closed for session in backend.sessions)


def test_what_is_asked_for_wrongly_is_told(world: SimpleNamespace, opened: Callable[..., Model]) -> None:
    path = world.bundle()
    with pytest.raises(ConfigError, match=r"no candidate 'int8-nncff'; did you mean 'int8-nncf'"):
        opened(path, candidate="int8-nncff")
    with pytest.raises(ConfigError, match="threads must be at least 1; got 0"):
        opened(path, candidate="fp32", threads=0)
    with pytest.raises(ConfigError, match="unknown backend 'openvin'"):
        opened(path, candidate="fp32", backend="openvin")


def test_threads_share_a_model_and_the_engine_runs_one_at_a_time(
    world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = world.Fake(slower_s={"fp32": 0.0005})
    model = load(world.bundle(batch=2), candidate="fp32", backend=backend, cache=world.tmp / "cache")
    (session,) = backend.sessions
    inside, most = 0, 0
    run = session.run

    def counted(inputs: Any) -> Any:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        try:
            return run(inputs)
        finally:
            inside -= 1

    monkeypatch.setattr(session, "run", counted)
    images = frames(*[(8 + i, 12) for i in range(12)])
    expected, failures = logits(world, images), []

    def work(start: int) -> None:
        for turn in range(10):
            one = (start + turn) % len(images)
            if not np.allclose(model(images[one]), expected[one], atol=1e-5):
                failures.append(one)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        workers = [threading.Thread(target=work, args=(i,)) for i in range(6)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(interval)
    assert failures == []
    assert most == 1


def test_a_closed_model_says_so_and_closing_twice_does_nothing(world: SimpleNamespace) -> None:
    backend = world.Fake()
    with load(world.bundle(), candidate="fp32", backend=backend, cache=world.tmp / "cache") as model:
        assert model(frames((8, 8))).shape == (1, 5)
    model.close()
    assert backend.sessions[0].closed
    with pytest.raises(ValueError, match="the model was closed"):
        model(frames((8, 8)))
