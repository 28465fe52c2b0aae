"""What a training command says at its end on stderr: what came out, what is kept, and what to run next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import typer

from edgemim.commands._output import remark
from edgemim.errors import Preempted

_SCORES = {"knn_top1": "k-NN top-1", "linear_top1": "linear probe top-1", "top1": "top-1"}
_LEFT_OUT = ("resume", "overwrite", "accept_changes")


def summarise(result: Mapping[str, Any], out: Path, context: typer.Context, *, following: str) -> None:
    """Steps, time, speed, loss, scores, where the states are, how to resume, and the next stage's command.

    Args:
        result: As the run returned it; empty where this is not the first of several processes, which tells it.
        out: Folder of the run.
        context: Of the command that is running.
        following: The command of the next stage.
    """
    if not result:
        return
    if result.get("finished_before"):
        remark("this run had come to its end before; nothing was done")
    took = timedelta(seconds=round(result["seconds"]))
    speed = f"{result['images_per_second']:.4g} images/s"
    said = [f"{result['steps']} steps; in this process {took} at {speed}"]
    if result["loss"] is not None:
        said.append(f"loss {result['loss']:.4g}")
    if result["data_wait"] is not None:
        said.append(f"waited for images {result['data_wait']:.1%} of the time")
    said += [f"{title} {result[name]:.4g}" for name, title in _SCORES.items() if name in result]
    remark(", ".join(said))
    remark(f"states: {_kept(out)}")
    remark(f"to train longer, with more --steps or --epochs: {resume_command(context)} --accept-changes")
    remark(f"next: {following}")


@contextmanager
def telling_how_to_resume(context: typer.Context) -> Iterator[None]:
    """When a run is stopped by a signal, say the whole command that goes on with it."""
    try:
        yield
    except (Preempted, KeyboardInterrupt) as stop:
        if str(stop):
            remark(f"resume: {resume_command(context)}")
        raise


def resume_command(context: typer.Context) -> str:
    """The command that is running, as a shell takes it, with `--resume`; what launched it is not part of it."""
    words = ["edgemim", str(context.info_name)]
    for parameter in context.command.params:
        value = context.params.get(str(parameter.name))
        if parameter.name in _LEFT_OUT or value is None or value is False:
            continue
        for each in value if isinstance(value, list | tuple) else [value]:
            option = [parameter.opts[0]] if parameter.param_type_name == "option" else []
            words += option if value is True else [*option, str(each)]
    return shlex.join([*words, "--resume"])


def _kept(out: Path) -> str:
    """Which saved states lie beside the checkpoint."""
    from edgemim.training.saving.state import BEST, KEPT, LAST, states, step_of

    found = []
    for name, title in ((LAST, "newest"), (BEST, "best"), (KEPT, "kept for good")):
        steps = [step_of(state) for state in reversed(states(out / name))]
        if steps:
            some = ", ".join(map(str, steps)) if len(steps) < 5 else f"{len(steps)} of them"
            found.append(f"{title} {out / name} (step {some})")
    return "; ".join(found) or "none"
