"""Weights from elsewhere: read without ever running code that a file may hold, and matched by name."""

from __future__ import annotations

import argparse
import pickle
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgemim.errors import CheckpointError

_NESTED = ("model", "state_dict", "model_state_dict", "module", "student", "model_ema")
_WRAPPERS = ("module.", "_orig_mod.")
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
    (`argparse.Namespace`, plain data that many training scripts save, is let through.)

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
    known = {k: v for k, v in state.items() if k in own}
    unexpected = [k for k in state if k not in own and not k.startswith(ignore)]
    problems = {
        "missing": [k for k in own if k not in state],
        "unexpected": unexpected,
        "of another shape": [
            f"{k} {list(v.shape)} instead of {list(own[k].shape)}" for k, v in known.items() if v.shape != own[k].shape
        ],
    }
    found = [f"{what}: {', '.join(names[:10])}{_more(names)}" for what, names in problems.items() if names]
    if found:
        raise CheckpointError(f"{source} does not fit {type(model).__name__}; {'; '.join(found)}")
    model.load_state_dict(known)


def _more(names: list[str]) -> str:
    return f" and {len(names) - 10} more" if len(names) > 10 else ""


def _unwrap(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.removeprefix(wrapper)
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
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
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
