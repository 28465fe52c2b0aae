"""Whether a saved state fits the run that wants to go on from it: with other settings it need not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from edgemim.errors import TrainingError
from edgemim.methods._memory import PatchMemory
from edgemim.training.loop.optimiser import parameter_groups
from edgemim.training.settings.training import TrainingSettings

_METHOD = "method."
_TEACHER = "teacher."
_MOMENTUM = "momentum."
_CURE = "resume with the settings it was saved with, or start anew with --overwrite"


def refuse_misfit(state: Mapping[str, Any], method: nn.Module, settings: TrainingSettings) -> None:
    """Refuse a state whose weights or moments belong to another network.

    Args:
        state: As Lightning saved it.
        method: What is to be trained on.
        settings: Which decide the groups of the optimiser.

    Raises:
        TrainingError: Names the first tensor that does not fit, or the fingerprints of what is remembered of images.
    """
    where = f"the state of step {state['global_step']} does not fit:"
    tensors = {k.removeprefix(_METHOD): v for k, v in state["state_dict"].items() if k.startswith(_METHOD)}
    for name, module in method.named_modules():
        if isinstance(module, PatchMemory):
            module.refuse_others(tensors, f"{name}.")  # first: of another set there may be more rows too
    saved, own = _shapes(tensors), _shapes(method.state_dict())
    if _follows(own) and not _follows(saved):
        raise TrainingError(
            f"{where} it holds no moving average of the network (momentum), which this method learns from; {_CURE}"
        )
    for name in sorted(saved | own):
        if saved.get(name) != own.get(name):
            was, now = saved.get(name, "absent"), own.get(name, "absent")
            raise TrainingError(f"{where} {name} is {was} there and {now} here; {_CURE}")
    groups = [len(group["params"]) for group in state["optimizer_states"][0]["param_groups"]]
    wanted = [len(group["params"]) for group in parameter_groups(method, settings)]
    if groups != wanted:
        raise TrainingError(
            f"{where} its optimiser has groups of {groups} tensors, these settings make {wanted} "
            f"(training.weight_decay, training.layer_decay); {_CURE}"
        )


def _follows(shapes: Mapping[str, str]) -> bool:
    return any(name.startswith(_MOMENTUM) for name in shapes)


def _shapes(tensors: Mapping[str, Any]) -> dict[str, str]:
    """Shape of each tensor of a method, but for its teacher's, which is not saved."""
    return {k: "x".join(map(str, v.shape)) or "a scalar" for k, v in tensors.items() if not k.startswith(_TEACHER)}
