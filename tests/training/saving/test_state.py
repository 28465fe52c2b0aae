"""The state to resume from: complete or absent, verified before it is parsed."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from edgemim.artifact import sha256_of
from edgemim.errors import OutputError, TrainingError
from edgemim.training.saving import state
from edgemim.training.saving.state import (
    LAST,
    VerifiedCheckpointIO,
    check_same_settings,
    newest_state,
    remove_drafts,
    save_settings,
)


def save(run: Path, step: int, value: float = 0.0, keep: int = 2) -> None:
    content = {"global_step": step, "state_dict": {"w": torch.full((3,), value)}}
    VerifiedCheckpointIO(keep).save_checkpoint(content, run / LAST)


def files(run: Path) -> list[str]:
    return sorted(p.name for p in (run / LAST).iterdir())


def test_a_state_comes_back(tmp_path: Path) -> None:
    save(tmp_path, 7, 2.5)
    found = newest_state(tmp_path)
    assert found is not None
    path, step = found
    assert step == 7
    loaded = VerifiedCheckpointIO().load_checkpoint(path)
    assert loaded["global_step"] == 7
    assert loaded["state_dict"]["w"].tolist() == [2.5] * 3


def test_its_name_is_its_step_and_the_beginning_of_its_hash(tmp_path: Path) -> None:
    save(tmp_path, 12)
    (name,) = files(tmp_path)
    assert name == f"step-000000012-{sha256_of(tmp_path / LAST / name)[:16]}.ckpt"


def test_the_newest_two_are_kept_and_the_newest_is_used(tmp_path: Path) -> None:
    for step in (1, 9, 10, 100):
        save(tmp_path, step)
    assert [name[:14] for name in files(tmp_path)] == ["step-000000010", "step-000000100"]
    assert newest_state(tmp_path) == (tmp_path / LAST / files(tmp_path)[1], 100)


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_so_many_are_kept_and_no_later_one_than_the_newest(tmp_path: Path, keep: int) -> None:
    for step in (1, 5, 9, 7, 8):  # the run that had come to 9 went back to 5
        save(tmp_path, step, keep=keep)
    assert [int(name[5:14]) for name in files(tmp_path)] == [1, 5, 7, 8][-keep:]


def test_of_a_step_that_is_saved_twice_the_second_stays(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2, 1.0)
    save(tmp_path, 2, 2.0)
    assert [int(name[5:14]) for name in files(tmp_path)] == [1, 2]
    found = newest_state(tmp_path)
    assert found is not None
    assert VerifiedCheckpointIO().load_checkpoint(found[0])["state_dict"]["w"][0] == 2.0


@pytest.mark.parametrize("damage", ["truncated", "altered", "empty"])
def test_a_damaged_one_falls_back_to_the_one_before_and_says_so(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    older = tmp_path / LAST / files(tmp_path)[0]
    newest = tmp_path / LAST / files(tmp_path)[1]
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes({"truncated": data[:-10], "altered": data, "empty": b""}[damage])
    found = newest_state(tmp_path)
    assert found is not None
    assert found[1] == 1
    assert capsys.readouterr().err == f"damaged: {newest}; going on from the state before, {older}\n"
    older.write_bytes(b"gone too")
    assert newest_state(tmp_path) is None
    assert capsys.readouterr().err == f"damaged: {newest}, {older}; no other state is left, so the run starts anew\n"


@pytest.mark.parametrize("folder", ["kept", "best"])
def test_a_state_that_outlived_the_newest_ones_will_do(tmp_path: Path, folder: str) -> None:
    save(tmp_path, 4)
    (tmp_path / LAST).rename(tmp_path / folder)
    save(tmp_path, 9)
    newest = tmp_path / LAST / files(tmp_path)[0]
    newest.write_bytes(b"damaged")
    found = newest_state(tmp_path)
    assert found is not None
    assert (found[0].parent.name, found[1]) == (folder, 4)


def test_what_a_killed_run_had_begun_is_removed(tmp_path: Path) -> None:
    save(tmp_path, 1)
    whole = files(tmp_path)
    drafts = ("last/draft.ckpt", "last/.draft.ckpt.123.partial", ".model.safetensors.7.partial", "kept/.x.1.partial")
    for name in drafts:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / "notes.partial").write_text("mine")
    remove_drafts(tmp_path)
    assert files(tmp_path) == whole
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == sorted([*whole, "notes.partial"])


@pytest.mark.parametrize("name", ["draft.ckpt", ".draft.ckpt.123.partial", "step-5.ckpt.tmp", "step-000000099-zz.ckpt"])
def test_what_was_never_finished_does_not_count(tmp_path: Path, name: str) -> None:
    assert newest_state(tmp_path) is None
    save(tmp_path, 3)
    (tmp_path / LAST / name).write_bytes(b"half of a state")
    found = newest_state(tmp_path)
    assert found is not None
    assert found[1] == 3


def test_code_in_a_state_does_not_run(tmp_path: Path) -> None:
    proof = tmp_path / "code-ran"

    class Code:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.mkdir, (str(proof),)

    save(tmp_path, 1)
    found = newest_state(tmp_path)
    assert found is not None
    torch.save({"x": Code()}, found[0])
    with pytest.raises(Exception, match="Weights only load failed"):
        VerifiedCheckpointIO().load_checkpoint(found[0])
    assert not proof.exists()


@pytest.mark.parametrize("call", [1, 2])
def test_a_full_disk_leaves_the_states_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    save(tmp_path, 1, 1.5)
    save(tmp_path, 2, 2.5)
    calls = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        OutputError, match=r"the disk is full; free some space .*step-000000002.*\.ckpt is as it was"
    ) as caught:
        save(tmp_path, 3, 3.5)
    assert isinstance(caught.value.__cause__, OSError)
    monkeypatch.undo()
    assert [n[:14] for n in files(tmp_path) if n != "draft.ckpt"] == ["step-000000001", "step-000000002"]
    found = newest_state(tmp_path)
    assert found is not None
    assert VerifiedCheckpointIO().load_checkpoint(found[0])["state_dict"]["w"][0] == 2.5
    save(tmp_path, 3)
    assert [n[:14] for n in files(tmp_path)] == ["step-000000002", "step-000000003"]


def test_a_disk_that_forgets_leaves_the_states_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)
    monkeypatch.setattr(state, "write_bytes", lambda path, data: path.write_bytes(data[:-1]))
    with pytest.raises(OutputError, match="reads back different"):
        save(tmp_path, 2)
    monkeypatch.undo()
    found = newest_state(tmp_path)
    assert found is not None
    assert found[1] == 1


def test_the_same_settings_may_go_on(tmp_path: Path) -> None:
    settings = {"seed": 0, "training": {"steps": 3, "betas": (0.9, 0.95)}}
    check_same_settings(tmp_path, settings)  # nothing was started there
    save_settings(tmp_path, settings)
    check_same_settings(tmp_path, settings)


def test_settings_that_differ_are_named(tmp_path: Path) -> None:
    save_settings(tmp_path, {"seed": 0, "training": {"steps": 3, "base_lr": 0.1}, "method": {"name": "mae"}})
    now = {"seed": 0, "training": {"steps": 4, "base_lr": 0.1}, "method": {"name": "mae", "norm_pix": False}}
    with pytest.raises(TrainingError) as caught:
        check_same_settings(tmp_path, now)
    assert str(caught.value) == (
        f"{tmp_path} was started with other settings: method.norm_pix was None, is False; training.steps was 3, is 4; "
        "resume with the same, go on all the same with --accept-changes, or start anew with --overwrite"
    )
    assert check_same_settings(tmp_path, now, accept=True) == [
        "method.norm_pix was None, is False",
        "training.steps was 3, is 4",
    ]


def test_of_many_settings_that_differ_the_first_are_named_and_the_others_counted(tmp_path: Path) -> None:
    save_settings(tmp_path, {"method": dict.fromkeys("abcdefg", 0)})
    with pytest.raises(TrainingError, match=r": method\.a was 0, is 1; .* method\.e was 0, is 1 and 2 more; resume"):
        check_same_settings(tmp_path, {"method": dict.fromkeys("abcdefg", 1)})
