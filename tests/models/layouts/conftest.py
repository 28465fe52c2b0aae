"""Public checkpoints at a tiny size: every name and shape as the authors' code saves it, written by hand.

Width 16, 2 heads, 2 x 2 patches of 8 pixels; decoders of width 32. Values are random where they are trained, and
recomputed by loops where they are tables.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from edgemim.models.checkpoint import Checkpoint, load_checkpoint
from edgemim.models.convert import convert_file, convert_folder
from edgemim.models.weights import read_state_dict

Shapes = dict[str, tuple[int, ...]]
State = dict[str, Tensor]


def both(name: str, rows: int, *columns: int) -> Shapes:
    return {f"{name}.weight": (rows, *columns), f"{name}.bias": (rows,)}


def vit_block(name: str, width: int) -> Shapes:
    return {
        **both(f"{name}.norm1", width),
        **both(f"{name}.attn.qkv", 3 * width, width),
        **both(f"{name}.attn.proj", width, width),
        **both(f"{name}.norm2", width),
        **both(f"{name}.mlp.fc1", 4 * width, width),
        **both(f"{name}.mlp.fc2", width, 4 * width),
    }


def mae_encoder() -> Shapes:
    return {
        "cls_token": (1, 1, 16),
        "pos_embed": (1, 5, 16),
        **both("patch_embed.proj", 16, 3, 8, 8),
        **vit_block("blocks.0", 16),
        **vit_block("blocks.1", 16),
        **both("norm", 16),
    }


def mae_decoder() -> Shapes:
    return {
        "mask_token": (1, 1, 32),
        **both("decoder_embed", 32, 16),
        **vit_block("decoder_blocks.0", 32),
        **both("decoder_norm", 32),
        **both("decoder_pred", 192, 32),
    }


def beit_block(name: str, *, own_bias: bool) -> Shapes:
    table: Shapes = {f"{name}.attn.relative_position_bias_table": (12, 2)} if own_bias else {}
    return {
        f"{name}.gamma_1": (16,),
        f"{name}.gamma_2": (16,),
        **both(f"{name}.norm1", 16),
        f"{name}.attn.q_bias": (16,),
        f"{name}.attn.v_bias": (16,),
        **table,
        f"{name}.attn.qkv.weight": (48, 16),
        **both(f"{name}.attn.proj", 16, 16),
        **both(f"{name}.norm2", 16),
        **both(f"{name}.mlp.fc1", 64, 16),
        **both(f"{name}.mlp.fc2", 16, 64),
    }


def beit_encoder(*, shared: bool) -> Shapes:
    table: Shapes = {"rel_pos_bias.relative_position_bias_table": (12, 2)} if shared else {}
    return {
        "cls_token": (1, 1, 16),
        **both("patch_embed.proj", 16, 3, 8, 8),
        **table,
        **beit_block("blocks.0", own_bias=not shared),
        **beit_block("blocks.1", own_bias=not shared),
    }


def swin_block(name: str, width: int, heads: int, window: int) -> Shapes:
    return {
        **both(f"{name}.norm1", width),
        f"{name}.attn.relative_position_bias_table": ((2 * window - 1) ** 2, heads),
        **both(f"{name}.attn.qkv", 3 * width, width),
        **both(f"{name}.attn.proj", width, width),
        **both(f"{name}.norm2", width),
        **both(f"{name}.mlp.fc1", 4 * width, width),
        **both(f"{name}.mlp.fc2", width, 4 * width),
    }


def swin_encoder() -> Shapes:
    """32 pixels in patches of 4: stages of 8 x 8 and 4 x 4 tokens, windows of 4 x 4, so only the first one shifts."""
    return {
        **both("patch_embed.proj", 8, 3, 4, 4),
        **both("patch_embed.norm", 8),
        **swin_block("layers.0.blocks.0", 8, 1, 4),
        **swin_block("layers.0.blocks.1", 8, 1, 4),
        "layers.0.downsample.reduction.weight": (16, 32),
        **both("layers.0.downsample.norm", 32),
        **swin_block("layers.1.blocks.0", 16, 2, 4),
        **swin_block("layers.1.blocks.1", 16, 2, 4),
        **both("norm", 16),
    }


def bias_index(window: int, *, class_token: bool) -> Tensor:
    """Row of the table of biases for each pair of tokens of a square window, a class token in front of them."""
    span, first = 2 * window - 1, int(class_token)
    index = torch.zeros(window**2 + first, window**2 + first, dtype=torch.int64)
    if class_token:
        index[0, :], index[:, 0], index[0, 0] = span**2, span**2 + 1, span**2 + 2
    for a in range(window**2):
        for b in range(window**2):
            down = a // window - b // window + window - 1
            right = a % window - b % window + window - 1
            index[a + first, b + first] = down * span + right
    return index


def shift_mask(side: int, window: int) -> Tensor:
    """-100 for each pair of tokens of a shifted window that were no neighbours before the shift, else 0."""

    def region(place: int) -> int:
        return int(place >= side - window) + int(place >= side - window // 2)

    mask = torch.zeros((side // window) ** 2, window**2, window**2)
    for number in range(len(mask)):
        top, left = number // (side // window) * window, number % (side // window) * window
        tokens = [(top + i // window, left + i % window) for i in range(window**2)]
        for a, (y, x) in enumerate(tokens):
            for b, (v, u) in enumerate(tokens):
                if (region(y), region(x)) != (region(v), region(u)):
                    mask[number, a, b] = -100
    return mask


def fill(shapes: Shapes) -> State:
    generator = torch.Generator().manual_seed(5)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.fixture
def mae(reference: Callable[[str], ModuleType]) -> State:
    """MAE, pretrained, with its decoder."""
    table = torch.from_numpy(reference("positions").sincos_table(32, 2, 2, 1)).float()[None]
    return {**fill({**mae_encoder(), **mae_decoder()}), "decoder_pos_embed": table}


@pytest.fixture
def mae_pooled() -> State:
    """MAE, fine-tuned on 5 classes with an average of the patches."""
    shapes = {k: v for k, v in mae_encoder().items() if not k.startswith("norm.")}
    return fill({**shapes, **both("fc_norm", 16), **both("head", 5, 16)})


@pytest.fixture
def make_dmae(mae: State) -> Callable[[str], State]:
    """`make_dmae(kind)`: DMAE with two pairs of blocks and projectors of a kind, to a teacher of width 24."""
    modules: dict[str, Callable[[str], Shapes]] = {
        "fc-1layer": lambda name: both(name, 24, 16),
        "mlp-1layer": lambda name: {**both(f"{name}.fc1", 24, 16), **both(f"{name}.fc2", 24, 24)},
        "mlp-2layer": lambda name: {
            **both(f"{name}.0.fc1", 24, 16),
            **both(f"{name}.0.fc2", 24, 24),
            **both(f"{name}.1.fc1", 24, 24),
            **both(f"{name}.1.fc2", 24, 24),
        },
    }

    def make(kind: str) -> State:
        heads = [modules[kind](f"aligned_feature_projection_heads.{pair}") for pair in (0, 1)]
        return {**mae, **fill(heads[0] | heads[1])}

    return make


def simmim(encoder: State, width: int, channels: int, outputs: int) -> State:
    added = fill({"encoder.mask_token": (1, 1, width), **both("decoder.0", outputs, channels, 1, 1)})
    return {**{f"encoder.{name}": tensor for name, tensor in encoder.items()}, **added}


@pytest.fixture
def simmim_vit() -> State:
    """SimMIM's ViT, pretrained: one table of biases for all blocks."""
    encoder = fill({**beit_encoder(shared=True), **both("norm", 16)})
    index = {"rel_pos_bias.relative_position_index": bias_index(2, class_token=True)}
    return simmim({**encoder, **index}, 16, 16, 192)


@pytest.fixture
def swin() -> State:
    """Swin as its authors save it, without a classifier."""
    index = bias_index(4, class_token=False)
    blocks = [f"layers.{stage}.blocks.{block}" for stage in (0, 1) for block in (0, 1)]
    return {
        **fill(swin_encoder()),
        **{f"{block}.attn.relative_position_index": index for block in blocks},
        "layers.0.blocks.1.attn_mask": shift_mask(8, 4),
    }


@pytest.fixture
def simmim_swin(swin: State) -> State:
    """SimMIM's Swin, pretrained: a token of the last stage stands for 8 x 8 pixels."""
    return simmim(swin, 8, 16, 192)


@pytest.fixture
def beit() -> State:
    """BEiT, pretrained with a codebook of 30 tokens."""
    shapes = {**beit_encoder(shared=True), **both("norm", 16), "mask_token": (1, 1, 16), **both("lm_head", 30, 16)}
    return {**fill(shapes), "rel_pos_bias.relative_position_index": bias_index(2, class_token=True)}


@pytest.fixture
def beit_pooled() -> State:
    """BEiT or SimMIM's ViT, fine-tuned on 5 classes: a table in each block, an average of the patches."""
    shapes = {**beit_encoder(shared=False), **both("fc_norm", 16), **both("head", 5, 16)}
    index = bias_index(2, class_token=True)
    return {**fill(shapes), **{f"blocks.{i}.attn.relative_position_index": index for i in (0, 1)}}


@pytest.fixture
def save(tmp_path: Path) -> Callable[[Any], Path]:
    """`save(state)`: a `.pth` file of it, as training scripts write one."""

    def write(state: Any) -> Path:
        torch.save({"model": state, "epoch": 3}, tmp_path / "weights.pth")
        return tmp_path / "weights.pth"

    return write


@pytest.fixture
def bring(tmp_path: Path, save: Callable[[Any], Path]) -> Callable[..., Checkpoint]:
    """`bring(state, layout, table={...})`: through a file and `convert_file` to a loaded checkpoint."""

    def convert(state: State, layout: str, **settings: Any) -> Checkpoint:
        out = tmp_path / "out"
        convert_file(save(state), out, layout=layout, settings=settings, overwrite=True)
        return load_checkpoint(out)

    return convert


@pytest.fixture
def take_back(tmp_path: Path) -> Callable[..., State]:
    """`take_back(checkpoint, layout)`: the tensors of the file that `convert_folder` writes."""

    def convert(checkpoint: Checkpoint, layout: str, suffix: str = ".pth") -> State:
        file = tmp_path / f"back{suffix}"
        convert_folder(checkpoint.artifact.path, file, layout=layout, overwrite=True)
        return read_state_dict(file)

    return convert


@pytest.fixture
def assert_same() -> Callable[[State, State], None]:
    """Two state dicts have the same names, and the same bits under each."""

    def check(found: State, wanted: State) -> None:
        assert sorted(found) == sorted(wanted)
        for name, tensor in wanted.items():
            assert found[name].dtype == tensor.dtype, name
            assert torch.equal(found[name], tensor), name

    return check
