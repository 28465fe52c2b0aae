"""Settings that were changed on the way of a run, with the user's consent: remembered for its provenance."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgemim.artifact import write_text
from edgemim.training.saving.state import KEPT, LAST, states, step_of
from edgemim.training.shown.say import say

CHANGES = "changes.json"


def note_changes(run: Path, changes: Sequence[str]) -> None:
    """Say which settings differ from now on, and remember it with the step of the newest state.

    Args:
        run: Its folder.
        changes: As `NAME was OLD, is NEW`; where there are none, nothing is done.
    """
    if not changes:
        return
    newest = max((step_of(state) for name in (LAST, KEPT) for state in states(run / name)), default=0)
    say(f"going on from step {newest} with other settings: {'; '.join(changes)}")
    now = {"step": newest, "changes": list(changes)}
    before = accepted_changes(run)
    # A run that was killed between this and its new settings says the same once more.
    if now not in before:
        write_text(run / LAST / CHANGES, json.dumps([*before, now], indent=2) + "\n")


def accepted_changes(run: Path) -> list[dict[str, Any]]:
    """What was changed on the way, oldest first: `step` and `changes`."""
    file = run / LAST / CHANGES
    found: list[dict[str, Any]] = json.loads(file.read_text("utf-8")) if file.is_file() else []
    return found
