"""`edgemim.runtime.probe`: what it measures of real backends, and what it says of a process that ends badly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgemim.errors import DeviceError, OutputError
from edgemim.runtime.backends.onnxruntime import OnnxRuntimeBackend
from edgemim.runtime.bundle import Bundle, load_bundle
from edgemim.runtime.device import describe_device
from edgemim.runtime.plan import Pair
from edgemim.runtime.probe import measure, parent
from edgemim.runtime.probe.measure import probe

MakePair = Callable[..., Pair]

IN_ANOTHER = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from edgemim.runtime.backends import BACKENDS
from edgemim.runtime.bundle import load_bundle
from edgemim.runtime.plan import Pair
from edgemim.runtime.probe.measure import probe
bundle = load_bundle({bundle!r})
pair = Pair(candidate=bundle.candidates[0], backend=BACKENDS.get("onnxruntime")())
{before}
try:
    print(probe(bundle, pair, Path({cache!r}), 1))
except Exception as error:
    print(type(error).__name__, error)
"""


def in_another(bundle: Bundle, cache: Path, before: str = "", paths: list[str] | None = None) -> list[str]:
    """A command that probes in another process than the tests', whose memory and limits are their own."""
    code = IN_ANOTHER.format(bundle=str(bundle.artifact.path), cache=str(cache), before=before, paths=paths or [])
    return [sys.executable, "-c", code]


def gone_within(pid: int, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        # A child that its parent has not asked for yet.
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


def written(file: Path) -> int:
    """The process id in a file that another process is about to write."""
    until = time.monotonic() + 30
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < until
        time.sleep(0.05)
    return int(file.read_text())


def test_the_peak_of_a_real_model_is_its_weights_and_more_but_not_what_this_process_holds(
    world: SimpleNamespace, big_model: Callable, pair_of: MakePair, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    bundle = load_bundle(world.bundle(encode=big_model, evaluation=None))
    held = b"\1" * 400_000_000  # of this process, and none of the child's business
    found = probe(bundle, pair_of(bundle), tmp_path, 1)
    del held
    memory, cold = found.memory, found.cold_start
    assert memory.peak_mb is not None
    assert memory.base_mb is not None
    assert 15 < memory.base_mb < 200
    assert 20 < memory.peak_mb - memory.base_mb < 300
    assert memory.device_mb is None
    assert memory.device_reason == "onnxruntime computes in the host's memory"
    assert memory.reason is cold.reason is None
    assert min(cold.compile_s or 0, cold.import_s or 0, cold.load_s or 0, cold.first_ms or 0) > 0


def test_what_an_earlier_run_compiled_is_loaded_in_one_process_and_compiled_anew_when_asked(
    world: SimpleNamespace, big_model: Callable, pair_of: MakePair, tmp_path: Path
) -> None:
    pytest.importorskip("openvino", reason="needs openvino")
    bundle = load_bundle(world.bundle(encode=big_model, evaluation=None))
    pair = pair_of(bundle, "openvino")
    first = probe(bundle, pair, tmp_path / "cache", 1)
    assert first.cold_start.compiled_before is False
    assert 20 < (first.cold_start.compile_peak_mb or 0) < 600
    assert 20 < (first.memory.peak_mb or 0) < 600
    again = probe(bundle, pair, tmp_path / "cache", 1).cold_start
    assert (again.compiled_before, again.compile_peak_mb) == (True, None)
    assert again.compile_s == first.cold_start.compile_s
    assert again.load_s is not None
    anew = probe(bundle, pair, tmp_path / "cache", 1, rebuild=True).cold_start
    assert anew.compiled_before is False
    assert anew.compile_s != first.cold_start.compile_s


def test_a_backend_of_the_callers_own_is_not_probed(world: SimpleNamespace, pair_of: MakePair, small: Bundle) -> None:
    class Own(OnnxRuntimeBackend):
        pass

    for backend in (world.Fake(), Own()):
        found = probe(small, pair_of(small, backend), Path("unused"), 1)
        assert found.memory.peak_mb is found.cold_start.load_s is None
        assert "an object of the caller" in (found.memory.reason or "")
        assert found.cold_start.reason == found.memory.reason == found.memory.device_reason


@pytest.mark.parametrize(
    ("do", "said"),
    [
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            "was killed while compiling fp32 (SIGKILL), most likely for want of memory",
        ),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "ended while compiling fp32 with SIGSEGV: its library crashed"),
        (
            "sys.stderr.write('std::bad_alloc'); sys.stderr.flush(); os.abort()",
            "ran out of memory while compiling fp32",
        ),
        ("raise MemoryError", "ran out of memory while compiling fp32: it may have"),
        ("raise RuntimeError('Cannot allocate memory')", "ran out of memory while compiling fp32 (onnxruntime cannot"),
        ("os._exit(7)", "ended while compiling fp32 with exit code 7 (the fake library loads)"),
        ("raise LookupError('a bug')", "with exit code 1 (LookupError: a bug)"),
        ("raise RuntimeError('no such operator')", "onnxruntime cannot load fp32.onnx: no such operator"),
    ],
)
def test_a_process_that_ends_badly_is_one_line_that_names_backend_candidate_and_cause(
    do: str, said: str, fake_vendor: Callable, small: Bundle, pair_of: MakePair, tmp_path: Path
) -> None:
    fake_vendor(do)
    with pytest.raises(DeviceError) as caught:
        probe(small, pair_of(small), tmp_path, 1)
    message = str(caught.value)
    assert said in message
    assert "onnxruntime" in message
    assert "\n" not in message


def test_it_says_what_it_did_when_it_was_killed(
    fake_vendor: Callable, small: Bundle, pair_of: MakePair, tmp_path: Path
) -> None:
    fake_vendor(run="os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(DeviceError, match=r"killed while running fp32 .* MB \(.*leave 'fp32' out"):
        probe(small, pair_of(small), tmp_path, 1)


def test_a_process_that_does_not_get_on_is_ended(
    fake_vendor: Callable, small: Bundle, pair_of: MakePair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = tmp_path / "pid"
    fake_vendor(f"open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)")
    patience = dict.fromkeys(parent.PATIENCE_S, 30.0) | {"compile": 1.0}
    monkeypatch.setattr(measure, "run_child", lambda order: parent.run_child(order, patience_s=patience))
    with pytest.raises(DeviceError, match="hangs while compiling fp32: nothing happened for 1 s"):
        probe(small, pair_of(small), tmp_path, 1)
    assert gone_within(written(pid), 2)


def test_what_the_library_prints_is_not_taken_for_a_line(
    fake_vendor: Callable, small: Bundle, pair_of: MakePair, tmp_path: Path
) -> None:
    fake_vendor("print('noise'); os.system('echo more noise')")
    assert probe(small, pair_of(small), tmp_path, 1).cold_start.load_s is not None


def test_the_folder_that_the_user_is_in_is_not_imported_from(
    fake_vendor: Callable, small: Bundle, pair_of: MakePair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_vendor()
    there = tmp_path / "there"
    there.mkdir()
    (there / "json.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(there)
    assert probe(small, pair_of(small), tmp_path / "cache", 1).cold_start.load_s is not None


def test_a_cache_that_cannot_be_written_is_the_users_error(
    world: SimpleNamespace, pair_of: MakePair, small: Bundle, tmp_path: Path
) -> None:
    pytest.importorskip("openvino", reason="needs openvino")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        probe(small, pair_of(small, "openvino"), tmp_path / "file" / "cache", 1)


@pytest.mark.skipif(describe_device().emulated is True, reason="qemu-user does not hold a process to its limits")
def test_a_limit_of_the_process_is_named(fake_vendor: Callable, small: Bundle, tmp_path: Path) -> None:
    folder = fake_vendor("bytearray(2_000_000_000)")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (2_000_000_000, 2_000_000_000))"
    command = in_another(small, tmp_path, limit, [str(folder)])
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    expected = (
        "DeviceError backend 'onnxruntime' ran out of memory while compiling fp32: it may have 2,000 MB (ulimit -v)"
    )
    assert done.stdout.startswith(expected), done.stdout + done.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_it_ends_with_the_process_that_started_it(
    number: int, fake_vendor: Callable, small: Bundle, tmp_path: Path
) -> None:
    pid = tmp_path / "pid"
    folder = fake_vendor(f"open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)")
    command = in_another(small, tmp_path, paths=[str(folder)])
    outer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child = written(pid)
    outer.send_signal(number)
    _, errors = outer.communicate(timeout=30)
    assert number == signal.SIGKILL or b"KeyboardInterrupt" in errors
    assert gone_within(child, 5)
