"""The light transformer that predicts hidden patches from visible ones, thrown away after pretraining.

Source: He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, arXiv:2111.06377, section 3.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.models.decoder_block import DecoderBlock
from edgemim.models.initialise import initialise_linear
from edgemim.models.mask_plan import MaskPlan, gather_tokens
from edgemim.models.positions import sincos_positions

# Section 0.4 of the released code's conventions; timm's norms in the blocks default to the same.
_EPS = 1e-6


class MAEDecoder(nn.Module):
    """Linear to `width`, mask tokens, fixed positions, pre-norm blocks, norm, linear to `outputs`.

    Args:
        encoder_width: Channels of the incoming tokens.
        grid: Height and width of the patch grid.
        outputs: Numbers predicted for each patch.
        width, depth, heads: Of the decoder's blocks; the MLP ratio is 4.
        num_prefix: Tokens in front of the visible patches; the first is the class token. They take part in
            the attention with position zero and are dropped at the end.

    Raises:
        ConfigError: `width` is not a multiple of `heads`, or of 4, or a number is out of range.
    """

    positions: Tensor

    def __init__(
        self,
        encoder_width: int,
        grid: tuple[int, int],
        outputs: int,
        *,
        width: int = 512,
        depth: int = 8,
        heads: int = 16,
        num_prefix: int = 1,
    ) -> None:
        super().__init__()
        _check_shape(width, depth, heads)
        self.num_prefix = num_prefix
        self.embed = nn.Linear(encoder_width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("positions", sincos_positions(width, grid, num_prefix)[None], persistent=False)
        self.blocks = nn.ModuleList(DecoderBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=_EPS)
        self.predict = nn.Linear(width, outputs)
        self.apply(initialise_linear)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, tokens: Tensor, plan: MaskPlan, *, only_masked: bool = False) -> Tensor:
        """Predictions of all patches by id, [B, L, outputs], or of the masked ones alone, [B, M, outputs].

        Dropped patches take no part and cost nothing; in the first form their predictions are 0.

        Args:
            tokens: [B, P + K, encoder_width], prefix, then the visible patches by ascending id.
            plan: Of these images.
            only_masked: Predict the plan's `mask_ids` alone, in their order; nothing is computed that they do not
                need, so the last block has M tokens at its end.
        """
        return self.decode(self.sequence(self.embed(tokens), plan), plan, only_masked=only_masked)

    def sequence(self, seen: Tensor, plan: MaskPlan) -> Tensor:
        """[B, P + K + M, width]: what was seen, then a token for each masked patch, all with their positions.

        Args:
            seen: [B, P + K, width], the incoming tokens after `embed`.
            plan: Of these images.
        """
        positions = self.positions[0].to(seen.dtype)
        prefix, patches = positions[: self.num_prefix], positions[self.num_prefix :]
        visible = F.embedding(plan.keep_ids, patches)
        masked = F.embedding(plan.mask_ids, patches) + self.mask_token.to(seen.dtype)
        prefix = prefix.expand(len(seen), -1, -1)
        return torch.cat([seen + torch.cat([prefix, visible], dim=1), masked], dim=1)

    def decode(self, sequence: Tensor, plan: MaskPlan, *, only_masked: bool = False) -> Tensor:
        """The predictions of `forward`, from a `sequence` that other decoders may read too."""
        return _decode(self, sequence, plan, only_masked)


class SecondDecoder(nn.Module):
    """Another decoder on the sequence of an `MAEDecoder`: blocks, norm and linear to `outputs` of its own.

    Args:
        outputs: Numbers predicted for each patch.
        width, depth, heads, num_prefix: As the first decoder's.

    Raises:
        ConfigError: As there.
    """

    def __init__(self, outputs: int, *, width: int = 512, depth: int = 8, heads: int = 16, num_prefix: int = 1) -> None:
        super().__init__()
        _check_shape(width, depth, heads)
        self.num_prefix = num_prefix
        self.blocks = nn.ModuleList(DecoderBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=_EPS)
        self.predict = nn.Linear(width, outputs)
        self.apply(initialise_linear)

    def forward(self, sequence: Tensor, plan: MaskPlan, *, only_masked: bool = False) -> Tensor:
        """See `MAEDecoder.decode`."""
        return _decode(self, sequence, plan, only_masked)


def _check_shape(width: int, depth: int, heads: int) -> None:
    if min(width, heads) < 1 or depth < 0:
        raise ConfigError(f"decoder width {width} and heads {heads} must be at least 1, depth {depth} at least 0")
    if width % heads:
        raise ConfigError(f"decoder width {width} is not a multiple of its {heads} heads")


def _decode(layers: MAEDecoder | SecondDecoder, x: Tensor, plan: MaskPlan, only_masked: bool) -> Tensor:
    # The attention knows no order, so tokens stay as they came: prefix, visible, masked.
    stop = x.shape[1]
    start = stop - plan.mask_ids.shape[1] if only_masked else layers.num_prefix
    blocks = list(layers.blocks)
    for block in blocks[:-1]:
        x = block(x)
    x = blocks[-1](x, start=start, stop=stop) if blocks else x[:, start:stop]
    predicted: Tensor = layers.predict(layers.norm(x))
    if only_masked:
        return predicted
    dropped = plan.role.shape[1] - predicted.shape[1]
    return gather_tokens(F.pad(predicted, (0, 0, 0, dropped)), plan.restore_ids)
