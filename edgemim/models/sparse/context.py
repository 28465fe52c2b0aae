"""A dense convnet that sees visible cells only, for the time of a context.

Source: Tian et al., "Designing BERT for Convolutional Networks: Sparse and Hierarchical Masked Modeling", ICLR 2023,
    arXiv:2301.03580, section 3.
Differs: no layer is replaced by a sparse one and converted back for export: the layers stay what they are, and only
    how they are called changes. The mask belongs to the context, not to the program, so two models can be masked
    differently at the same time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.models.mask_plan import MaskPlan
from edgemim.models.sparse.active import ActivePlaces, MisalignedError
from edgemim.models.sparse.forms import Form, form_of


@contextmanager
def sparse(model: nn.Module, plan: MaskPlan) -> Iterator[ActivePlaces]:
    """Run a model on visible cells: inside, its layers compute as if hidden cells held nothing.

    Weights, running statistics, types and names of its modules are never touched, so it is the same dense model before
    and after. Gradient checkpointing would run layers again outside, as dense ones; leave it off.

    Args:
        model: A convnet.
        plan: Which cells are visible; cells are as large as the model's total stride.

    Returns:
        The places of visible cells; its `clear` empties the hidden cells of the images, which the model must be given.

    Raises:
        ConfigError: A layer's places cannot be shared out to cells; names it.
    """
    active = ActivePlaces(plan)
    changed: list[nn.Module] = []
    try:
        for path, module in model.named_modules():
            form = form_of(module)
            if form is not None:
                # A module calls the `forward` of its instance where there is one, else that of its class.
                module.__dict__["forward"] = partial(_run, form, module, path, active)
                changed.append(module)
        yield active
    finally:
        for module in changed:
            del module.__dict__["forward"]


def _run(form: Form, module: nn.Module, path: str, active: ActivePlaces, x: Tensor) -> Tensor:
    try:
        return form(module, active, x)
    except MisalignedError as error:
        raise ConfigError(
            f"{path!r} ({type(module).__name__}) cannot be run on visible cells alone: its {error}; choose images that "
            "are a multiple of the backbone's stride, or another backbone"
        ) from error
