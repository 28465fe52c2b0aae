"""Weights from elsewhere: read without ever running code that a file may hold, and matched by name."""

from __future__ import annotations

import argparse
import pickle
import struct
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgemim.errors import CheckpointError, first_of
from edgemim.models.build import build_backbone, classifiers

_NESTED = ("model", "state_dict", "model_state_dict", "module", "student", "model_ema")
_WRAPPERS = ("module.", "_orig_mod.")
# Plain data that training scripts save beside their weights, and what it is read as: yacs' settings as a dict.
_HARMLESS: list[Any] = [argparse.Namespace, (OrderedDict, "yacs.config.CfgNode")]
# What torch.load raises on files that are cut off, altered or something else.
_DAMAGED = (
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    struct.error,
)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors of a `.safetensors` file or of a `.pth`/`.pt`/`.bin`/`.ckpt` file, by name.

    A pickle is read with `weights_only=True`: one that holds code is refused and nothing of it runs.
    (`argparse.Namespace` and yacs' `CfgNode`, plain data that many training scripts save, are let through.)

    Raises:
        CheckpointError: No such file, damaged, holds code, or holds no tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"weights {path} do not exist")
    loaded: Any = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"weights {path} hold a {type(loaded).__name__}; a state dict is needed")
    for key in _NESTED:
        if isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            break
    tensors = {_unwrap(str(k)): v for k, v in loaded.items() if isinstance(v, Tensor)}
    if not tensors:
        raise CheckpointError(f"weights {path} hold no tensors; a state dict is needed")
    return tensors


def load_matching(model: nn.Module, state: Mapping[str, Tensor], *, source: str, ignore: tuple[str, ...] = ()) -> None:
    """Load a state dict, every tensor of the model needed, shapes equal.

    Args:
        model: Receives the tensors.
        state: By the model's own names.
        source: For messages.
        ignore: Beginnings of names that the model need not know (a decoder, a head).

    Raises:
        CheckpointError: Names the first ten missing, unexpected and misshapen tensors.
    """
    own = model.state_dict()
    found = differences(own, state, ignore=ignore)
    if found:
        raise CheckpointError(f"{source} does not fit {type(model).__name__}; {found}")
    model.load_state_dict({k: v for k, v in state.items() if k in own})


def differences(own: Mapping[str, Tensor], state: Mapping[str, Tensor], *, ignore: tuple[str, ...] = ()) -> str:
    """What keeps a state dict from being taken for another one, for a message; empty where nothing does.

    Args:
        own: The tensors that are needed, by name; their values do not matter.
        state: The tensors that there are.
        ignore: Beginnings of names that are not needed.
    """
    problems = {
        "missing": [k for k in own if k not in state],
        "unexpected": [k for k in state if k not in own and not k.startswith(ignore)],
        "of another shape": [
            f"{k} {list(v.shape)} instead of {list(own[k].shape)}"
            for k, v in state.items()
            if k in own and v.shape != own[k].shape
        ],
    }
    return "; ".join(f"{what}: {first_of(names)}" for what, names in problems.items() if names)


def build_fitting(
    name: str, arguments: Mapping[str, Any], state: Mapping[str, Tensor], *, with_head: bool
) -> tuple[nn.Module, dict[str, Any], int]:
    """A timm model for a state dict of timm's names, as far as the names say what it needs.

    Args:
        name: timm architecture.
        arguments: timm arguments; these win.
        state: Its rows of the classifier are the classes, and a norm that lies behind the average of the tokens
            (`fc_norm`) instead of before it (`norm`), or the other way round, decides on `global_pool`.
        with_head: Whether the model gets a classifier, where the state dict has one.

    Returns:
        The model with random weights, the arguments that rebuild it, its classes (0 without a head).
    """
    model = build_backbone(name, arguments)
    weight = state.get(f"{classifiers(model)[0]}weight") if with_head else None
    classes = 0 if weight is None or weight.dim() == 0 else int(weight.shape[0])
    pooled = _pooling(model.state_dict(), state)
    complete = dict(arguments) if pooled is None else {"global_pool": pooled, **arguments}
    if classes or complete != dict(arguments):
        model = build_backbone(name, complete, num_classes=classes)
    return model, complete, classes


def _pooling(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str | None:
    """timm's `global_pool` for a state dict whose last norm lies elsewhere than the model's; None where it does not."""
    before, behind = "norm.weight", "fc_norm.weight"
    if before in own and behind not in own and behind in state and before not in state:
        return "avg"
    if behind in own and before not in own and before in state and behind not in state:
        return "token"
    return None


def _unwrap(name: str) -> str:
    while name.startswith(_WRAPPERS):
        name = name.split(".", 1)[1]
    return name


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"weights {path} are damaged or not safetensors: {error}") from error


def _read_pickle(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            # About pickle protocols other than torch's: such a file is refused, and the user told so, anyway.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = _first_line(error)
        raise CheckpointError(
            f"weights {path} hold more than tensors, which could run code, so they were not loaded ({reason}); "
            "save its state dict as .safetensors"
        ) from error
    except _DAMAGED as error:
        raise CheckpointError(f"weights {path} are damaged or not a torch file: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "GLOBAL" in line or "Unsupported" in line]
    return (named or lines or [type(error).__name__])[0][:160]
