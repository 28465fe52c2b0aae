"""How each kind of layer is run on visible cells only, with its own weights and statistics.

Every form leaves zeros at the places of hidden cells. What has no form must keep zeros where it finds them (activations
without an offset, sums, drop path, layer scale); whether it does is looked at by `edgemim.models.sparse.check`.

A map of a single place is the average of an image, inside a squeeze-excite, and is left alone.

Source: Tian et al., "Designing BERT for Convolutional Networks: Sparse and Hierarchical Masked Modeling", ICLR 2023,
    arXiv:2301.03580, section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from edgemim.models.sparse.active import ActivePlaces
from edgemim.models.sparse.batch_norm import joint_batch_norm, several_processes

# The layer, which places count, and its input.
Form = Callable[[nn.Module, ActivePlaces, Tensor], Tensor]


def form_of(module: nn.Module) -> Form | None:
    """How a layer is run on visible cells; None of one that runs as it is."""
    if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        return cleared
    if isinstance(module, nn.Linear):
        return cleared_last
    return _BY_NAME.get(type(module).__name__)


def cleared(module: nn.Module, active: ActivePlaces, x: Tensor) -> Tensor:
    """Its output for [B, C, H, W], emptied at the places of hidden cells.

    To a visible place the hidden ones beside it are zeros, as those beyond the edge of an image are.
    """
    out = _whole(module, x)
    return active.clear(out) if _is_map(x) else out


def cleared_last(module: nn.Module, active: ActivePlaces, x: Tensor) -> Tensor:
    """The same for [B, H, W, C]."""
    out = _whole(module, x)
    if not _is_map(x, last=True):
        return out
    return out.masked_fill(active.hidden(out.shape[1], out.shape[2]).movedim(1, 3), 0)


def batch_norm(module: nn.Module, active: ActivePlaces, x: Tensor) -> Tensor:
    """A norm over the batch, given visible cells [B * K, C, h, w] and no others; and the activation that timm adds."""
    if not _is_map(x):
        return _whole(module, x)
    cells = active.take(x)
    flat = cells.flatten(0, 1)
    if isinstance(module, nn.BatchNorm2d) and module.training and several_processes():
        norm: Any = module
        normed = joint_batch_norm(norm, flat)
        normed = norm.act(norm.drop(normed)) if hasattr(norm, "act") else normed
    else:
        normed = _whole(module, flat)
    return active.put(normed.unflatten(0, cells.shape[:2]))


def of_image(module: nn.Module, active: ActivePlaces, x: Tensor) -> Tensor:
    """What averages over an image (group norm, squeeze-excite), given [B, C, K, h * w]: its visible cells in a row."""
    if not _is_map(x):
        return _whole(module, x)
    cells = active.take(x)
    row = cells.transpose(1, 2).flatten(3)
    out = _whole(module, row).unflatten(3, cells.shape[3:])
    return active.put(out.transpose(1, 2))


def of_image_last(module: nn.Module, active: ActivePlaces, x: Tensor) -> Tensor:
    """The same for [B, H, W, C]."""
    if not _is_map(x, last=True):
        return _whole(module, x)
    cells = active.take(x.movedim(3, 1))
    row = cells.transpose(1, 2).flatten(3).movedim(1, 3)
    out = _whole(module, row).movedim(3, 1).unflatten(3, cells.shape[3:])
    return active.put(out.transpose(1, 2)).movedim(1, 3)


def response_norm(module: nn.Module, active: ActivePlaces, x: Tensor) -> Tensor:
    """GRN: the zeros of hidden cells add nothing to its norms over places, and its bias is taken away there."""
    norm: Any = module
    return (cleared_last if norm.channel_dim == -1 else cleared)(module, active, x)


def _whole(module: nn.Module, x: Tensor) -> Tensor:
    """What the layer itself makes of `x`: the `forward` of its class, as that of the instance may be a sparse one."""
    out: Tensor = type(module).forward(module, x)
    return out


def _is_map(x: Tensor, *, last: bool = False) -> bool:
    """Whether `x` has places: [B, C, H, W], or [B, H, W, C] where channels come last."""
    return x.dim() == 4 and tuple(x.shape[1:3] if last else x.shape[2:]) != (1, 1)


# By the name of their class: which of them exist depends on the release of timm. Subclasses are not meant: they may
# compute something else.
_BY_NAME: dict[str, Form] = {
    "BatchNorm2d": batch_norm,
    "BatchNormAct2d": batch_norm,
    "SyncBatchNorm": batch_norm,
    "SyncBatchNormAct": batch_norm,
    "GroupNorm": of_image,
    "GroupNorm1": of_image,
    "GroupNormAct": of_image,
    "GroupNorm1Act": of_image,
    "LayerNorm2d": cleared,
    "LayerNorm2dFp32": cleared,
    "LayerNormExp2d": cleared,
    "LayerNormAct2d": cleared,
    "LayerNormAct2dFp32": cleared,
    "LayerNorm": cleared_last,
    "LayerNormFp32": cleared_last,
    "LayerNormAct": cleared_last,
    "LayerNormActFp32": cleared_last,
    "GlobalResponseNorm": response_norm,
    "SEModule": of_image,
    "SqueezeExcite": of_image,
    "EffectiveSEModule": of_image,
    "SqueezeExciteCl": of_image_last,
    "BlurPool2d": cleared,
}
