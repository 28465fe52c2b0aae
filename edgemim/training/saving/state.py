"""The state to resume from: `last/step-<n>-<hash>.ckpt`, complete or absent.

The name carries the beginning of the file's own sha256, so that a file is verified before a byte of it is
parsed; the newest that verifies is used. Two are kept.
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
from edgemim.errors import OutputError, TrainingError

LAST = "last"
SETTINGS = "settings.json"
_NAME = re.compile(r"step-(\d+)-([0-9a-f]{16})\.ckpt")
_KEPT = 2


class VerifiedCheckpointIO(CheckpointIO):
    """Writes a state under its final name only when it is complete on disk; never unpickles code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write `last/step-<n>-<hash>.ckpt` into the folder `path`; older ones go after it was read back.

        Raises:
            OutputError: The disk is full, or did not keep what was written; the states before this one stay.
        """
        folder = Path(path)
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            draft = folder / "draft.ckpt"
            write_bytes(draft, buffer.getvalue())
            digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
            if sha256_of(draft) != digest:
                raise OutputError(f"{draft} reads back different from what was written; check the disk")
            os.replace(draft, folder / f"step-{checkpoint['global_step']:09d}-{digest[:16]}.ckpt")
            sync_folder(folder)
        for old in _states(folder)[_KEPT:]:
            old.unlink(missing_ok=True)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a state whose hash `newest_state` has checked."""
        state: dict[str, Any] = torch.load(path, map_location=map_location or "cpu", weights_only=True)
        return state

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def newest_state(run: Path) -> tuple[Path, int] | None:
    """The newest state of a run that verifies, and its step; None where there is none."""
    for path in _states(run / LAST):
        step, digest = _parse(path)
        if sha256_of(path).startswith(digest):
            return path, step
    return None


def save_settings(run: Path, settings: Mapping[str, Any]) -> None:
    """Remember with which settings a run was started."""
    (run / LAST).mkdir(parents=True, exist_ok=True)
    write_text(run / LAST / SETTINGS, json.dumps(settings, indent=2, sort_keys=True) + "\n")


def check_same_settings(run: Path, settings: Mapping[str, Any]) -> None:
    """Refuse to resume a run with other settings than it was started with.

    Raises:
        TrainingError: Names the settings that differ.
    """
    file = run / LAST / SETTINGS
    if not file.is_file():
        return
    before = _flat(json.loads(file.read_text("utf-8")))
    now = _flat(json.loads(json.dumps(settings)))
    differ = [
        f"{k} was {before.get(k)!r}, is {now.get(k)!r}" for k in sorted(before | now) if before.get(k) != now.get(k)
    ]
    if differ:
        raise TrainingError(
            f"{run} was started with other settings: {'; '.join(differ[:5])}; resume with the same, "
            "or start anew with --overwrite"
        )


def _states(folder: Path) -> list[Path]:
    found = [p for p in folder.glob("step-*.ckpt") if _NAME.fullmatch(p.name)] if folder.is_dir() else []
    return sorted(found, reverse=True)


def _parse(path: Path) -> tuple[int, str]:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match.group(1)), match.group(2)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    pairs: dict[str, Any] = {}
    for key, inner in value.items():
        pairs |= _flat(inner, f"{prefix}.{key}" if prefix else key)
    return pairs
