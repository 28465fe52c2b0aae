"""One line for the person who waits for a run."""

from __future__ import annotations

import sys

from edgemim.training.loop.launch import launched


def say(text: str) -> None:
    """Print `text` as a line of its own on stderr; of several processes of a run, the first speaks for all."""
    if launched().rank == 0:
        sys.stderr.write(f"{text}\n")
