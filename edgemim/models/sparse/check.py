"""Whether a convnet can be run on visible cells alone: tried out, so that modules nobody thought of are found too.

One visible cell is shown among hidden ones, in a small image and in a wider one. If hidden cells hold nothing and say
nothing, every module leaves zeros around the cell, and gives the cell the same values in both images: whatever
averages over an image, attends, or keeps an offset, does not. That changing hidden pixels changes nothing needs no
trial, as the images are emptied there before the first layer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.models.mask_plan import MaskPlan
from edgemim.models.sparse.context import sparse
from edgemim.models.sparse.forms import form_of

_ROWS, _NARROW, _WIDE = 3, 3, 5  # cells; one is visible, in the middle
# Of the largest number of a map. In float64 roundings stay far below, also those of layers that go through float32; an
# average over more empty places can change what a gate lets through by as little as thousandths.
_SAME = 1e-5


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What a module gave."""

    path: str
    kind: str
    out: Tensor


def check_layers(model: nn.Module, cell: tuple[int, int], levels: Sequence[int]) -> None:
    """Refuse a model whose layers cannot be run on visible cells alone; the model itself is not touched.

    Args:
        model: A timm convnet.
        cell: Height and width in pixels of a cell: its total stride.
        levels: Indices of the levels of features that are wanted; nothing behind them is run.

    Raises:
        ConfigError: Names the first module that cannot, and its type.
    """
    twin = _twin(model)
    content = torch.randn(1, 3, *cell, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    narrow, wide = (_look(twin, content, columns, levels) for columns in (_NARROW, _WIDE))
    for one, other in zip(narrow, wide, strict=True):
        _compare(one, other)


def _compare(narrow: _Seen, wide: _Seen) -> None:
    a, b = narrow.out, wide.out
    if a.shape != b.shape:
        # Channels first or last: the side that grew is the width.
        columns = 3 if a.shape[2] == b.shape[2] else 2
        cell_a, cell_b = (_middle(x, columns, cells) for x, cells in ((a, _NARROW), (b, _WIDE)))
        if any(x.count_nonzero() > cell.count_nonzero() for x, cell in ((a, cell_a), (b, cell_b))):
            _refuse(narrow.path, narrow.kind, "fills the places of hidden cells")
        a, b = cell_a, cell_b
    if not bool((a - b).abs().max() <= _SAME * a.abs().max()):
        _refuse(narrow.path, narrow.kind, "lets a visible cell depend on how many hidden ones there are")


def _refuse(path: str, kind: str, reason: str) -> NoReturn:
    raise ConfigError(
        f"this backbone cannot be run on visible cells alone: {path!r} ({kind}) {reason}; choose another one (ResNet, "
        "ConvNeXt, MobileNetV4, EfficientNet and RepViT can), or build it without that module"
    )


def _middle(maps: Tensor, columns: int, cells: int) -> Tensor:
    """The places of the middle one of _ROWS x `cells` cells; `columns` is the axis of the width."""
    rows = columns - 1
    height, width = maps.shape[rows] // _ROWS, maps.shape[columns] // cells
    return maps.narrow(rows, _ROWS // 2 * height, height).narrow(columns, cells // 2 * width, width)


@torch.no_grad()
def _twin(model: nn.Module) -> nn.Module:
    """A copy in eval mode, where an image depends on no other, and without weights that are all zero.

    Behind these (the last norm of a fresh block, a bias) no difference would show.
    """
    twin = copy.deepcopy(model).cpu().double().eval()
    rng = torch.Generator().manual_seed(1)
    for parameter in twin.parameters():
        if not parameter.any():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=rng))
    return twin


@torch.no_grad()
def _look(twin: nn.Module, content: Tensor, columns: int, levels: Sequence[int]) -> list[_Seen]:
    """What the modules give that are run, where it is a map, in the order in which they are done."""
    height, width = content.shape[2:]
    image = content.new_zeros(1, 3, _ROWS * height, columns * width)
    top, left = _ROWS // 2 * height, columns // 2 * width
    image[:, :, top : top + height, left : left + width] = content
    plan = MaskPlan.from_keep_ids(torch.tensor([[_ROWS // 2 * columns + columns // 2]]), (_ROWS, columns))
    seen: list[_Seen] = []

    def keep(path: str, module: nn.Module, out: Any) -> None:
        kind = type(module).__name__
        if hasattr(module, "running_var") and form_of(module) is None:
            _refuse(path, kind, "keeps statistics of all places")  # which a trial in eval mode would not show
        if isinstance(out, Tensor) and out.dim() == 4:
            seen.append(_Seen(path=path, kind=kind, out=out.clone()))  # what follows may change it in place

    handles = [
        module.register_forward_hook(lambda module, _, out, path=path: keep(path, module, out))
        for path, module in _outer(twin)
    ]
    model: Any = twin
    try:
        with sparse(twin, plan):
            model.forward_intermediates(image, indices=list(levels), stop_early=True, intermediates_only=True)
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        size = "x".join(map(str, image.shape[2:]))
        raise ConfigError(f"{type(twin).__name__} does not run on images of {size}: {reason}") from error
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _outer(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """All modules by their paths but what is inside of layers that have a form of their own."""
    for name, child in module.named_children():
        yield f"{prefix}{name}", child
        if form_of(child) is None:
            yield from _outer(child, f"{prefix}{name}.")
