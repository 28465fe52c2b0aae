"""The state to resume from: `last/step-<n>-<hash>.ckpt`, complete or absent.

The name carries the beginning of the file's own sha256, so that a file is verified before a byte of it is
parsed; the newest that verifies is used. Which of them outlive the newest ones says `retention.py`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import CheckpointIO

from edgemim.artifact import sha256_of, sync_folder, write_bytes, write_text, writing
from edgemim.config import differences
from edgemim.errors import OutputError, TrainingError, first_of
from edgemim.training.shown.say import say

LAST, KEPT, BEST = "last", "kept", "best"
SETTINGS = "settings.json"
_NAME = re.compile(r"step-(\d+)-([0-9a-f]{16})\.ckpt")


class VerifiedCheckpointIO(CheckpointIO):
    """Writes a state under its final name only when it is complete on disk; never unpickles code.

    Args:
        keep: How many of the newest states stay in the folder.
    """

    def __init__(self, keep: int = 2) -> None:
        self.keep = keep

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write `last/step-<n>-<hash>.ckpt` into the folder `path`; older ones go after it was read back.

        Raises:
            OutputError: The disk is full, or did not keep what was written; the states before this one stay.
        """
        folder = Path(path)
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        try:
            new = self._write(folder, buffer, int(checkpoint["global_step"]))
        except OutputError as error:
            older = states(folder)
            rest = f"; {older[0]} is as it was: --resume goes on from there" if older else ""
            raise OutputError(f"{error}{rest}") from error.__cause__
        remove_old(folder, new, self.keep)

    def _write(self, folder: Path, buffer: io.BytesIO, step: int) -> Path:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            draft = folder / "draft.ckpt"
            write_bytes(draft, buffer.getvalue())
            digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
            if sha256_of(draft) != digest:
                raise OutputError(f"{draft} reads back different from what was written; check the disk")
            new = folder / f"step-{step:09d}-{digest[:16]}.ckpt"
            os.replace(draft, new)
            sync_folder(folder)
        return new

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a state whose hash `newest_state` has checked."""
        state: dict[str, Any] = torch.load(path, map_location=map_location or "cpu", weights_only=True)
        return state

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def newest_state(run: Path) -> tuple[Path, int] | None:
    """The newest state of a run that verifies, and its step; None where there is none.

    States that are damaged are passed over, and a line on stderr names them.
    """
    damaged: list[str] = []
    for path in sorted((s for name in (LAST, KEPT, BEST) for s in states(run / name)), key=step_of, reverse=True):
        step, digest = _parse(path)
        if sha256_of(path).startswith(digest):
            if damaged:
                say(f"damaged: {', '.join(damaged)}; going on from the state before, {path}")
            return path, step
        damaged.append(str(path))
    if damaged:
        say(f"damaged: {', '.join(damaged)}; no other state is left, so the run starts anew")
    return None


def remove_old(folder: Path, newest: Path, keep: int) -> None:
    """Leave `keep` states in a folder: `newest`, which was verified, and those right before it."""
    others = [state for state in states(folder) if state != newest]
    # A later one than the newest was passed over as damaged, or belongs to what was done before.
    later = [state for state in others if step_of(state) >= step_of(newest)]
    for state in [*later, *others[len(later) + keep - 1 :]]:
        state.unlink(missing_ok=True)


def remove_drafts(run: Path) -> None:
    """Remove what a run that was killed had begun to write; only the holder of the folder's lock may."""
    for name in (".", LAST, KEPT, BEST):
        for draft in [*(run / name).glob(".*.partial"), *(run / name).glob("draft.ckpt")]:
            draft.unlink(missing_ok=True)


def save_settings(run: Path, settings: Mapping[str, Any]) -> None:
    """Remember with which settings a run was started."""
    (run / LAST).mkdir(parents=True, exist_ok=True)
    write_text(run / LAST / SETTINGS, json.dumps(settings, indent=2, sort_keys=True) + "\n")


def check_same_settings(run: Path, settings: Mapping[str, Any], *, accept: bool = False) -> list[str]:
    """Refuse to resume a run with other settings than it was started with.

    Args:
        run: Its folder.
        settings: That it is to go on with.
        accept: Go on all the same.

    Returns:
        What differs, as `NAME was OLD, is NEW`; empty where `accept` was not needed.

    Raises:
        TrainingError: Names the settings that differ.
    """
    file = run / LAST / SETTINGS
    if not file.is_file():
        return []
    differ = differences(json.loads(file.read_text("utf-8")), settings)
    if differ and not accept:
        raise TrainingError(
            f"{run} was started with other settings: {first_of(differ, most=5, separator='; ')}; resume with the same, "
            "go on all the same with --accept-changes, or start anew with --overwrite"
        )
    return differ


def states(folder: Path) -> list[Path]:
    """The states in a folder by their names, newest first; whether they are whole is another question."""
    found = [p for p in folder.glob("step-*.ckpt") if _NAME.fullmatch(p.name)] if folder.is_dir() else []
    return sorted(found, reverse=True)


def step_of(state: Path) -> int:
    """After how many steps a state was saved."""
    return _parse(state)[0]


def _parse(path: Path) -> tuple[int, str]:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match.group(1)), match.group(2)
