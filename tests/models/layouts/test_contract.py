"""What every layout must do with files that are not its own, and with damaged ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from edgemim.errors import CheckpointError, ConfigError
from edgemim.models.layouts import LAYOUTS
from edgemim.models.layouts._base import Asked, Reading

State = dict[str, Tensor]
VIT = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
# A file of each layout, and what has to be said about it.
FILES: dict[str, tuple[str, Asked]] = {
    "mae": ("mae", Asked(source="x.pth", backbone="vit_tiny_patch16_224", arguments={"num_heads": 2})),
    "dmae": ("mae", Asked(source="x.pth", backbone="vit_tiny_patch16_224", arguments={"num_heads": 2})),
    "simmim": ("simmim_swin", Asked(source="x.pth")),
    "beit": ("beit", Asked(source="x.pth")),
    "timm": ("mae", Asked(source="x.pth", backbone="vit_tiny_patch16_224", arguments=VIT)),
}


def read(layout: str, state: State, asked: Asked) -> Reading:
    reading: Reading = LAYOUTS.get(layout)().read(state, asked)
    return reading


def test_every_layout_has_a_file_here() -> None:
    assert sorted(FILES) == LAYOUTS.names()


@pytest.mark.parametrize("layout", LAYOUTS.names())
def test_its_own_file_is_read(layout: str, request: pytest.FixtureRequest) -> None:
    file, asked = FILES[layout]
    reading = read(layout, request.getfixturevalue(file), asked)
    assert sum(p.numel() for p in reading.model.parameters()) > 1000


@pytest.mark.parametrize("layout", LAYOUTS.names())
def test_a_file_of_something_else_is_one_line(layout: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read(layout, {"conv1.weight": torch.ones(8, 3, 3, 3), "conv1.bias": torch.ones(8)}, FILES[layout][1])
    assert "x.pth" in str(caught.value)
    assert "conv1.weight" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layout", LAYOUTS.names())
@pytest.mark.parametrize("shape", [(), (0,), (1, 1, 2), (2, 1, 1, 1)])
def test_a_tensor_of_another_shape_is_never_a_traceback(
    layout: str, shape: tuple[int, ...], request: pytest.FixtureRequest
) -> None:
    """One tensor after the other; timm ignores what is no part of the encoder."""
    file, asked = FILES[layout]
    state: Any = request.getfixturevalue(file)
    for name in state:
        if layout == "timm" and name.startswith(("decoder_", "mask_token")):
            continue
        with pytest.raises((CheckpointError, ConfigError)) as caught:
            read(layout, {**state, name: torch.ones(shape)}, asked)
        assert "\n" not in str(caught.value), name


@pytest.mark.parametrize("layout", LAYOUTS.names())
def test_a_missing_tensor_is_named(layout: str, request: pytest.FixtureRequest) -> None:
    """All but tables, which can be computed, and a whole decoder or head."""
    file, asked = FILES[layout]
    state: Any = request.getfixturevalue(file)
    computed = ("decoder_pos_embed", "relative_position_index", "attn_mask")
    parts = ("mask_token", "lm_head.weight", "lm_head.bias") if layout == "beit" else ()
    for name in state:
        if name.endswith(computed) or name in parts or (layout == "timm" and name.startswith(("decoder_", "mask_"))):
            continue
        with pytest.raises((CheckpointError, ConfigError)) as caught:
            read(layout, {k: v for k, v in state.items() if k != name}, asked)
        assert "\n" not in str(caught.value), name
