"""The contract of a layout, and how a state dict is checked against it by the file's own names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edgemim.errors import CheckpointError, ConfigError, first_of
from edgemim.models.build import build_backbone
from edgemim.models.checkpoint import Checkpoint
from edgemim.models.weights import differences

# Tables that a file holds and a model computes are compared with a few steps of float32 at 1 as tolerance.
_TABLE_TOLERANCE = 1e-5


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the user says about a file.

    Attributes:
        source: The file, for messages.
        backbone: timm architecture, or "" where the layout is to find out.
        arguments: timm arguments; these win over what the tensors tell.
        decoder_heads: Of the decoder, where the file has one; None: the layout's default.
    """

    source: str
    backbone: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    decoder_heads: int | None = None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A file in our names.

    Attributes:
        architecture: timm name.
        arguments: timm arguments that rebuild the model.
        model: With its weights.
        num_classes: 0 without a head.
        predictor: What the method throws away (mask token, decoder, projectors), by our names.
        contract: How images were prepared, as settings of `Preprocess`; timm's for what is not said here.
        facts: For the provenance.
    """

    architecture: str
    arguments: Mapping[str, Any]
    model: nn.Module
    num_classes: int = 0
    predictor: Mapping[str, Tensor] = field(default_factory=dict)
    contract: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Written:
    """A checkpoint in the names of a layout.

    Attributes:
        tensors: By the layout's names.
        predictor: Names, ours, of the predictor's tensors that are among them.
    """

    tensors: Mapping[str, Tensor]
    predictor: Collection[str] = ()


class Layout(ABC):
    """Names and tables of one family of public checkpoints.

    Attributes:
        has_decoder: Whether its files may hold a transformer decoder, whose heads the user can state.
        nested: Whether its authors save the tensors under the key `model`.
    """

    has_decoder: ClassVar[bool] = False
    nested: ClassVar[bool] = True

    @abstractmethod
    def read(self, state: Mapping[str, Tensor], asked: Asked) -> Reading:
        """Load a state dict of this layout.

        Raises:
            CheckpointError: Tensors are missing, unexpected, misshapen, or not of this layout at all.
            ConfigError: The tensors do not say what the model is, or contradict the arguments.
        """

    @abstractmethod
    def write(self, checkpoint: Checkpoint) -> Written:
        """The checkpoint's tensors by the names of this layout.

        Tensors of the predictor for which the layout has no names are left out.

        Raises:
            CheckpointError: The backbone is none that the layout can hold.
        """


Renaming = Callable[[str], str]


def load_renamed(
    model: nn.Module,
    state: Mapping[str, Tensor],
    *,
    source: str,
    rename: Renaming = str,
    beside: Mapping[str, Tensor] | None = None,
    computed: Mapping[str, Tensor] | None = None,
) -> None:
    """Load a model from a file whose tensors have other names, each of which is accounted for.

    Args:
        model: Receives the tensors.
        state: The whole file.
        source: For messages.
        rename: Our name of a tensor to the file's.
        beside: Tensors of the file that belong to the predictor, by the file's names; only shapes matter.
        computed: Tables that are left out because the model computes them; those of the file must be equal.

    Raises:
        CheckpointError: Names the first ten missing, unexpected and misshapen tensors, by the file's names.
    """
    own, tables = model.state_dict(), computed or {}
    files = {rename(name): tensor for name, tensor in own.items()}
    found = differences({**files, **(beside or {})}, {k: v for k, v in state.items() if k not in tables})
    if found:
        raise CheckpointError(f"{source} does not fit {type(model).__name__}; {found}")
    for name in tables.keys() & state.keys():
        _check_table(name, state[name], tables[name], source)
    model.load_state_dict({name: state[rename(name)] for name in own})


def build_of_type(
    wanted: type[nn.Module], name: str, arguments: Mapping[str, Any], num_classes: int, *, layout: str
) -> nn.Module:
    """A timm model with random weights.

    Raises:
        ConfigError: timm refuses the arguments, or the model is of another family than the layout's files.
    """
    model = build_backbone(name, arguments, num_classes=num_classes)
    if type(model) is not wanted:
        raise ConfigError(
            f"files of the layout {layout!r} hold a {wanted.__name__}; {name} is a {type(model).__name__}, "
            "choose another --backbone"
        )
    return model


def refuse_other_type(wanted: type[nn.Module], checkpoint: Checkpoint, *, layout: str) -> None:
    """Refuse a backbone of another family than the layout's files.

    Raises:
        CheckpointError: Names both.
    """
    if type(checkpoint.model) is not wanted:
        raise CheckpointError(
            f"files of the layout {layout!r} hold a {wanted.__name__}; {checkpoint.artifact.path} holds a "
            f"{type(checkpoint.model).__name__} ({checkpoint.architecture})"
        )


def is_known(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a name is one of some patterns, in which `N` stands for any number."""
    plain = ".".join("N" if part.isdigit() else part for part in name.split("."))
    return plain in patterns


def refuse_strange(model: nn.Module, layout: str, patterns: tuple[str, ...]) -> None:
    """Refuse a backbone with tensors that a layout has no names for.

    Raises:
        CheckpointError: Names the first ten.
    """
    strange = [name for name in model.state_dict() if not is_known(name, patterns)]
    if strange:
        raise CheckpointError(
            f"the layout {layout!r} has no names for these tensors of a {type(model).__name__}: {first_of(strange)}"
        )


def shape_of(state: Mapping[str, Tensor], name: str, dimensions: int, *, layout: str, source: str) -> tuple[int, ...]:
    """Shape of a tensor without which a file is not of a layout.

    Raises:
        CheckpointError: It is missing, or has another number of dimensions.
    """
    if name not in state:
        raise CheckpointError(
            f"{source} has not the names of the layout {layout!r}: it lacks {name}; it holds {first_of(list(state))}"
        )
    shape = tuple(state[name].shape)
    if len(shape) != dimensions or 0 in shape:
        raise CheckpointError(f"{source} is not of the layout {layout!r}: {name} has the shape {list(shape)}")
    return shape


def depth_of(state: Mapping[str, Tensor], prefix: str = "blocks.") -> int:
    """Number of the consecutive modules `prefix`0, `prefix`1, ... that a file has tensors of."""
    numbers = {name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)}
    depth = 0
    while str(depth) in numbers:
        depth += 1
    return depth


def square_side(area: int) -> int | None:
    """The whole number whose square is `area`; None where there is none."""
    side = round(max(area, 0) ** 0.5)
    return side if side > 0 and side * side == area else None


def encoder_first(state: Mapping[str, Tensor], anchor: str) -> dict[str, Tensor]:
    """A state dict without the `encoder.` in front of its names, where that is how it holds the tensor `anchor`."""
    prefix = "encoder."
    if anchor in state or prefix + anchor not in state:
        return dict(state)
    short = {name: name.removeprefix(prefix) for name in state}
    return {name if short[name] in state else short[name]: tensor for name, tensor in state.items()}


def classes_of(state: Mapping[str, Tensor], name: str = "head.weight") -> int:
    """Rows of a classifier; 0 without one."""
    weight = state.get(name)
    return 0 if weight is None or weight.dim() == 0 else int(weight.shape[0])


def _check_table(name: str, given: Tensor, own: Tensor, source: str) -> None:
    if given.shape != own.shape:
        raise CheckpointError(f"{source}: {name} has the shape {list(given.shape)}, here {list(own.shape)} is computed")
    worst = float((given.to(torch.float64) - own.to(torch.float64)).abs().max())
    if not worst <= _TABLE_TOLERANCE:
        raise CheckpointError(
            f"{source}: {name} is not the table that is computed for it (largest difference {worst:.2g}); "
            "it was trained or made in another way, which this model cannot hold"
        )
