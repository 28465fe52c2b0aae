"""Several processes of one run: the same result as one process, ended together, resumed by any number of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from edgemim.artifact import load_artifact
from edgemim.models.build import build_backbone
from edgemim.training.saving.state import LAST, newest_state

PHOTOS, IMAGES, BATCH, STEPS = 14, 12, 4, 6  # two are held out; two epochs of three steps
BACKBONE = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8, "img_size": 32}
DECODER = {"decoder_width": 32, "decoder_depth": 1}
Runs = Callable[..., SimpleNamespace]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """`runs(2, arguments, signals=...)`: what two processes did with a command, or with `function=` and its values."""
    host = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("forked_teams.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # Threads do not survive a fork; and this machine's name need not be in its table of hosts.
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONWARNINGS": "ignore"},
    )
    assert host.stdin is not None
    assert host.stdout is not None

    def call(count: int, arguments: list[str] | None = None, **job: Any) -> SimpleNamespace:
        assert host.stdin is not None
        assert host.stdout is not None
        folder = tmp_path_factory.mktemp("team")
        what = {"arguments": arguments} if arguments is not None else {}
        host.stdin.write(json.dumps({"count": count, "folder": str(folder), **what, **job}) + "\n")
        host.stdin.flush()
        codes = json.loads(host.stdout.readline())

        def read(name: str) -> list[str]:
            return [(folder / f"rank-{rank}.{name}").read_text() for rank in range(count)]

        seen = [[json.loads(line) for line in text.splitlines()] for text in read("seen")]
        return SimpleNamespace(codes=codes, out=read("out"), err=read("err"), seen=seen)

    yield call
    host.communicate(timeout=60)


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    """`command(out, "--resume")`: a run over 12 images, by default of the tiny MAE, drop path and clipping on."""
    photos = tmp_path_factory.mktemp("photos")
    for i in range(PHOTOS):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 34, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{i:02}.png")

    def make(out: Path, *more: object, stage: str = "pretrain", recipe: str = "mae-small") -> list[str]:
        sets = {f"backbone.{k}": v for k, v in BACKBONE.items()} | {f"method.{k}": v for k, v in DECODER.items()}
        sets |= {"backbone.drop_path_rate": 0.2, "training.clip_grad": 1.0, "training.precision": "fp32"}
        words = [word for name, value in sets.items() for word in ("--set", f"{name}={value}")]
        length = ["--steps", STEPS, "--batch-size", BATCH, "--deterministic", "--json"]
        given = [stage, "--data", photos, "--recipe", recipe, *words, *length, "--out", out, *more]
        return [str(word) for word in given]

    return make


@pytest.fixture(scope="module")
def two(runs: Runs, command: Any, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run of two processes, to its end."""
    out = tmp_path_factory.mktemp("two") / "run"
    done = runs(2, command(out))
    assert done.codes == [0, 0], done.err
    return SimpleNamespace(folder=out, **vars(done))


@pytest.fixture(scope="module")
def one(runs: Runs, command: Any, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The same by one process that makes two passes per step."""
    out = tmp_path_factory.mktemp("one") / "run"
    done = runs(1, command(out, "--set", "training.accumulate=2"))
    assert done.codes == [0], done.err
    return SimpleNamespace(folder=out, **vars(done))


def check_same_weights(folder: Path, wanted: Path) -> None:
    """The weights of two runs, up to the order of sums in float32 over a few steps of AdamW at rates below 1e-4."""
    names = {path.name for path in wanted.glob("*.safetensors")}
    assert names == {path.name for path in folder.glob("*.safetensors")} >= {"model.safetensors"}
    for name in names:
        a, b = load_file(folder / name), load_file(wanted / name)
        assert set(a) == set(b)
        for key in a:
            torch.testing.assert_close(a[key], b[key], rtol=1e-5, atol=1e-6)


def test_two_processes_learn_what_one_does_with_the_same_batch(two: SimpleNamespace, one: SimpleNamespace) -> None:
    check_same_weights(two.folder, one.folder)
    assert json.loads(two.out[0])["loss"] == pytest.approx(json.loads(one.out[0])["loss"], rel=1e-5)


def test_each_process_has_its_own_images_and_masks_and_together_they_see_all_once_per_epoch(
    two: SimpleNamespace, one: SimpleNamespace
) -> None:
    by_step = list(zip(*two.seen, strict=True))
    assert [(a["step"], b["step"]) for a, b in by_step] == [(step, step) for step in range(STEPS)]
    for a, b in by_step:
        assert a["visible"] != b["visible"]
        assert not set(a["index"]) & set(b["index"])
    places = sorted(place for seen in two.seen for s in seen for place in zip(s["epoch"], s["index"], strict=True))
    assert places == [(epoch, index) for epoch in range(2) for index in range(IMAGES)]
    # Part by part they are those of one process, whatever computes them.
    (alone,) = one.seen
    assert [part for step in by_step for part in step] == alone


def test_the_first_process_alone_writes_and_speaks(two: SimpleNamespace, one: SimpleNamespace) -> None:
    assert two.out[1] == two.err[1] == ""
    assert json.loads(two.out[0])["checkpoint"] == str(two.folder)

    def files(folder: Path) -> set[str]:
        # The names of states and of TensorBoard's files hold hashes and times.
        return {
            p.name for p in folder.rglob("*") if p.is_file() and p.suffix in (".json", ".png", ".csv", ".safetensors")
        }

    assert files(two.folder) == files(one.folder)
    assert len(list((two.folder / "logs" / "tensorboard").glob("events*"))) == 1


def test_what_is_logged_is_the_mean_over_all_processes(two: SimpleNamespace, one: SimpleNamespace) -> None:
    def losses(folder: Path) -> list[float]:
        lines = (folder / "logs" / "csv" / "from-step-000000000" / "metrics.csv").read_text().splitlines()
        column = lines[0].split(",").index("loss")
        return [float(line.split(",")[column]) for line in lines[1:]]

    assert losses(two.folder) == pytest.approx(losses(one.folder), rel=1e-5)


@pytest.mark.parametrize(
    ("signals", "code", "at"),
    [
        pytest.param({0: (3, signal.SIGTERM), 1: (3, signal.SIGTERM)}, 75, 5, id="to-all"),
        pytest.param({1: (2, signal.SIGUSR1)}, 75, 4, id="to-one", marks=pytest.mark.slow),
        pytest.param({0: (2, signal.SIGINT), 1: (3, signal.SIGINT)}, 130, 4, id="in-turn", marks=pytest.mark.slow),
    ],
)
def test_a_signal_stops_all_at_the_same_step_and_any_number_of_processes_goes_on(
    runs: Runs, command: Any, two: SimpleNamespace, tmp_path: Path, signals: Any, code: int, at: int
) -> None:
    stopped = runs(2, command(tmp_path / "run"), signals=signals)
    assert stopped.codes == [code, code], stopped.err
    assert stopped.err[1] == ""
    told = [line for line in stopped.err[0].splitlines() if line.startswith("edgemim: ")]
    assert len(told) == 1
    assert told[0].startswith(f"edgemim: stopped at step {at} of {STEPS}; its state is in {tmp_path / 'run' / LAST}; ")
    found = newest_state(tmp_path / "run")
    assert found is not None
    assert found[1] == at
    resumed = runs(1, command(tmp_path / "run", "--resume", "--set", "training.accumulate=2"))
    assert resumed.codes == [0], resumed.err
    check_same_weights(tmp_path / "run", two.folder)


@pytest.mark.slow
def test_two_processes_resume_bit_by_bit(runs: Runs, command: Any, two: SimpleNamespace, tmp_path: Path) -> None:
    assert runs(2, command(tmp_path / "run"), signals={0: (1, signal.SIGTERM)}).codes == [75, 75]
    resumed = runs(2, command(tmp_path / "run", "--resume"))
    assert resumed.codes == [0, 0], resumed.err
    for name in ("model.safetensors", "predictor.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (two.folder / name).read_bytes()
    assert load_artifact(tmp_path / "run").provenance[-1]["result"]["resumed_from"] == 3
    again = runs(2, command(tmp_path / "run", "--resume"))
    assert (again.codes, again.out[1]) == ([0, 0], "")
    assert json.loads(again.out[0])["finished_before"] is True


def test_a_process_that_is_killed_ends_the_others_with_a_line(runs: Runs, command: Any, tmp_path: Path) -> None:
    every_step = ("--set", "training.save_minutes=0")
    killed = runs(2, command(tmp_path / "run", *every_step), signals={1: (4, signal.SIGKILL)})
    assert killed.codes == [2, -signal.SIGKILL]
    assert "another process of this run has gone without a word" in killed.err[0]
    assert "Traceback" not in killed.err[0]
    found = newest_state(tmp_path / "run")
    assert found is not None
    assert found[1] == 4


def test_a_loss_that_is_no_number_in_one_process_ends_all_with_its_message_once(
    runs: Runs, command: Any, tmp_path: Path
) -> None:
    done = runs(2, command(tmp_path / "run"), not_finite={1: 2})
    assert done.codes == [2, 2]
    told = [line for text in done.err for line in text.splitlines() if line.startswith("edgemim: ")]
    assert len(told) == 1
    assert "loss is nan at step 2" in told[0]
    assert "Traceback" not in "".join(done.err)


@pytest.mark.slow
def test_what_the_first_process_refuses_is_said_once(
    runs: Runs, command: Any, two: SimpleNamespace, tmp_path: Path
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "photo.jpg").write_text("mine")
    taken = runs(2, command(tmp_path / "taken"))
    assert taken.codes == [2, 2]
    assert "".join(taken.err).count("exists; choose another --out") == 1
    other = runs(2, command(two.folder, "--resume", "--set", "training.accumulate=2"))
    assert other.codes == [2, 2]
    assert "".join(other.err).count("(training.accumulate times processes) was 2, is 4") == 1


@pytest.mark.slow
def test_a_batch_that_cannot_be_divided_is_refused(runs: Runs, command: Any, tmp_path: Path) -> None:
    done = runs(2, command(tmp_path / "run", "--batch-size", 5))
    assert done.codes == [2, 2]
    assert "".join(done.err).count("batch_size 5 cannot be divided into 2 equal parts") == 1


def test_processes_tell_each_other_plain_values(runs: Runs) -> None:
    done = runs(3, function="told", values={})
    assert done.codes == [0, 0, 0], done.err
    assert [json.loads(text) for text in done.out] == [[[{"rank": 0}, {"rank": 1}, {"rank": 2}], ["only", 0], 1.0]] * 3


def test_a_spread_teacher_gives_the_features_of_a_whole_one(runs: Runs, tmp_path: Path) -> None:
    torch.manual_seed(0)
    arguments = {**BACKBONE, "qk_norm": True}
    save_file(build_backbone("vit_tiny_patch16_224", arguments).state_dict(), tmp_path / "teacher.safetensors")
    values = {
        "source": str(tmp_path / "teacher.safetensors"),
        "backbone": {"backbone": "vit_tiny_patch16_224", "licence": "MIT", **arguments},
    }
    done = runs(2, function="features", values=values)
    assert done.codes == [0, 0], done.err
    found = [json.loads(text) for text in done.out]
    assert [greatest for greatest, _, _ in found] == [0.0, 0.0]  # the same kernels on the same numbers
    (_, first, whole), (_, second, _) = found
    assert first + second == whole
    assert abs(first - second) <= whole // 10


@pytest.mark.slow
def test_a_method_that_leaves_parameters_out_of_its_loss_trains_in_two_processes_too(
    runs: Runs, command: Any, two: SimpleNamespace, tmp_path: Path
) -> None:
    def distil(count: int, *more: object) -> dict[str, Any]:
        out = tmp_path / f"{count}"
        decoder = [w for name in DECODER for w in ("--set", f"method.{name}={DECODER[name]}")]
        words = command(out, "--teacher", two.folder, *more, stage="distill", recipe="minilm-small")
        first = words.index(decoder[1]) - 1
        done = runs(count, words[:first] + words[first + len(decoder) :])
        assert done.codes == [0] * count, done.err
        assert done.err[1:] == [""] * (count - 1)
        result: dict[str, Any] = json.loads(done.out[0])
        return result

    alone = distil(1, "--set", "training.accumulate=2")
    together = distil(2)
    assert together["untrained"] == alone["untrained"] != []
    check_same_weights(tmp_path / "2", tmp_path / "1")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sit", "spark"])
def test_methods_that_look_at_the_whole_batch_see_that_of_all_processes(
    runs: Runs, tmp_path: Path, method: str
) -> None:
    for count in (1, 2):
        done = runs(count, function="share", values={"method": method, "file": str(tmp_path / f"{count}")})
        assert done.codes == [0] * count, done.err
    whole, *halves = (load_file(tmp_path / name) for name in ("1-0", "2-0", "2-1"))
    assert sum(name.startswith("gradient.") for name in whole) > 20
    for name, expected in whole.items():
        first, second = (half[name] for half in halves)
        if name.startswith("buffer."):
            assert torch.equal(first, second)
        # float32, sums in another order; what is small beside a layer's largest number is a difference of large ones.
        close = {"rtol": 1e-4, "atol": 1e-5 * max(1.0, float(expected.abs().max()))}
        torch.testing.assert_close((first + second) / 2, expected, **close, msg=lambda text, at=name: f"{at}: {text}")
    if method == "sit":  # alone, a process would have fewer negatives
        assert not torch.allclose(halves[0]["loss"], halves[1]["loss"], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["hpm", "amt"])
def test_what_a_method_keeps_is_the_same_in_all_processes_and_in_one(
    runs: Runs, command: Any, tmp_path: Path, method: str
) -> None:
    own = {"hpm": (), "amt": ("--set", "method.first_epoch=1", "--set", "method.refresh_epochs=1")}[method]
    two = runs(2, command(tmp_path / "2", *own, recipe=f"{method}-small"))
    one = runs(1, command(tmp_path / "1", *own, "--set", "training.accumulate=2", recipe=f"{method}-small"))
    assert (two.codes, one.codes) == ([0, 0], [0]), two.err + one.err
    kept = [[seen["kept"] for seen in of_rank] for of_rank in two.seen]
    assert kept[0] == kept[1]
    # The copy follows every step, but at the first the rate is 0; the memory gets its one look between the two epochs.
    assert len(set(kept[0])) == {"hpm": STEPS - 1, "amt": 2}[method]
    states = []
    for count in (1, 2):
        found = newest_state(tmp_path / f"{count}")
        assert found is not None
        states.append(torch.load(found[0], weights_only=True)["state_dict"])
    names = [name for name in states[0] if name.startswith(("method.momentum.", "method.memory."))]
    for name in names:
        # A row of the memory is kept in half precision.
        close = {"rtol": 2e-3, "atol": 1e-3} if "memory" in name else {"rtol": 1e-5, "atol": 1e-6}
        torch.testing.assert_close(states[1][name], states[0][name], **close)
    if method == "amt":
        rows = states[1]["method.memory.rows"]
        assert rows.shape == (IMAGES, 16)
        assert (rows > 0).any(dim=1).all()  # each image was looked at, by one of the two
    check_same_weights(tmp_path / "2", tmp_path / "1")


@pytest.mark.slow
def test_a_run_with_a_spread_teacher_ends_like_one_with_a_whole_teacher(
    runs: Runs, command: Any, two: SimpleNamespace, tmp_path: Path
) -> None:
    for name in ("whole", "spread"):
        spread = ("--set", f"training.shard_teacher={str(name == 'spread').lower()}")
        taught = command(tmp_path / name, "--teacher", two.folder, *spread, stage="distill", recipe="dmae-small")
        done = runs(2, taught)
        assert done.codes == [0, 0], done.err
    wanted = (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert (tmp_path / "spread" / "model.safetensors").read_bytes() == wanted


@pytest.mark.slow
def test_streams_are_divided_among_processes_too(runs: Runs, command: Any, tmp_path: Path) -> None:
    for shard in range(3):
        with tarfile.open(tmp_path / f"train-{shard:05}.tar", "w") as tar:
            for i, photo in enumerate(sorted(Path(command(tmp_path)[2]).iterdir())[:6]):
                tar.add(photo, arcname=f"{6 * shard + i:05}.png")
    for name, count, more in (("two", 2, ()), ("one", 1, ("--set", "training.accumulate=2"))):
        words = command(tmp_path / name, *more)
        done = runs(count, [*words[:2], f"stream:{tmp_path}/*.tar", *words[3:]])
        assert done.codes == [0] * count, done.err
    check_same_weights(tmp_path / "two", tmp_path / "one")


@pytest.fixture
def torchrun() -> Iterator[Callable[[list[str]], subprocess.Popen[str]]]:
    """`torchrun(words)` starts two processes of `edgemim`."""
    started: list[subprocess.Popen[str]] = []

    def start(words: list[str]) -> subprocess.Popen[str]:
        launcher = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
            "-m",
            "edgemim",
        ]
        started.append(
            subprocess.Popen(
                [*launcher, *words],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.terminate()  # the launcher ends its processes, which a kill would leave to themselves
        process.communicate(timeout=90)


@pytest.mark.slow
def test_torchrun_starts_them(torchrun: Any, command: Any, two: SimpleNamespace, tmp_path: Path) -> None:
    process = torchrun(command(tmp_path / "run"))
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert json.loads(out)["steps"] == STEPS
    check_same_weights(tmp_path / "run", two.folder)


@pytest.mark.slow
def test_what_torchrun_passes_on_saves_and_stops_all(torchrun: Any, command: Any, tmp_path: Path) -> None:
    endless = ("--steps", 10_000_000, "--set", "training.picture_steps=5", "--set", "training.workers=1")
    process = torchrun(command(tmp_path / "run", *endless, "--set", "training.compile=off"))
    end = time.monotonic() + 200
    while not list((tmp_path / "run").glob("reconstructions/*.png")) and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 1, err
    found = newest_state(tmp_path / "run")
    assert found is not None, err
    told = [line for line in err.splitlines() if "edgemim: " in line]
    assert len(told) == 1, err
    assert f"edgemim: stopped at step {found[1]} of 10000000" in told[0]
