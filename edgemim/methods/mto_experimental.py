"""EXPERIMENTAL: MTO, three losses and a gate that keep mask tokens unlike visible ones, on top of SimMIM or MAE.

Source: Choi et al., "Emerging Property of Masked Token for Effective Pre-training", ECCV 2024, arXiv:2404.08330.
Command: pretrain
Needs: a plain ViT
Differs: there is no released code, and of the paper no more than the abstract is known to us: that there are three
    losses and what they are for, that an entropy measures how unlike the two kinds of tokens are in each layer, and
    that weights are recalibrated. Every formula here is our own reconstruction and every weight our choice; none of
    the paper's numbers can be expected. Each part can be switched off; with all of them off it is its host.
    States are the tokens that enter a block: of the encoder for `simmim`, of the decoder for `mae`. Class tokens,
    registers and patches that a masking drops count neither as masked nor as visible. Visible tokens are trained by
    the losses too. The entropy of a mask token is that of its affinities, a softmax of its cosines at the temperature
    0.1, over the masked and visible tokens of its image, itself among them, as a share of the highest possible. The
    gate starts at 1, where it changes nothing. That of the last block learns nothing, since nobody reads its visible
    tokens. While there is a gate, dropout of attention weights is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.masking._base import MaskingStrategy
from edgemim.methods import METHODS
from edgemim.methods._base import Batch, Method, Step
from edgemim.methods._watched import Places, watched
from edgemim.models.adapters.base import BackboneAdapter
from edgemim.models.mask_plan import MaskPlan, gather_tokens
from edgemim.models.teachers import Teacher

_TEMPERATURE = 0.1


@dataclass(frozen=True, kw_only=True)
class MTOSettings:
    """Settings of `mto-experimental`.

    Args:
        host: The method that it is added to, `simmim` or `mae`.
        spatial: Weight of the loss that keeps mask tokens apart from visible ones at the first block; 0: left out.
        entropy: Weight of the loss that gathers a mask token's affinities on few tokens there; 0: left out.
        heterogeneity: Weight of the loss that lets masked and visible tokens only become more alike; 0: left out.
        gate: Whether each block learns how much visible tokens see of mask tokens.
        decoder_width, decoder_depth, decoder_heads: Of the decoder of `mae`.
        norm_pix: Of `mae`: normalise each target patch by its own mean and deviation.
    """

    host: str = "simmim"
    spatial: float = 0.1
    entropy: float = 0.1
    heterogeneity: float = 0.1
    gate: bool = True
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    norm_pix: bool = True

    def __post_init__(self) -> None:
        if self.host not in _HOSTS:
            raise ConfigError(f"method.host must be one of {', '.join(_HOSTS)}; got {self.host!r}")
        for name in ("spatial", "entropy", "heterogeneity"):
            if getattr(self, name) < 0:
                raise ConfigError(f"method.{name} must not be negative; got {getattr(self, name)}")
        if self.decoder_depth < 1:
            raise ConfigError(f"method.decoder_depth must be at least 1; got {self.decoder_depth}")


class MTOExperimental(Method):
    """See the module."""

    Settings = MTOSettings
    student_needs = ("tokens", "mask_token")
    experimental = "no formula in it comes from released code; its losses and its gate are our own reconstruction"

    def __init__(
        self,
        adapter: BackboneAdapter,
        masking: MaskingStrategy,
        settings: Any,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__(adapter, masking, settings, teacher)
        cls = METHODS.get(settings.host)
        self.host: Method = cls(adapter, masking, cls.Settings(**_of_host(cls.Settings, settings)))
        del self.host.model  # it is here already, and no tensor has two names
        self.gates = nn.Parameter(torch.zeros(len(self._blocks()))) if settings.gate else None

    def forward(self, batch: Batch, rng: torch.Generator, plan: MaskPlan | None = None) -> Step:
        plan = plan or self.draw(batch, rng)
        places = self._places(plan)
        with self._watch(places) as states:
            step: Step = self.host(batch, rng, plan)
        terms = self._terms(states, places)
        if not terms:
            return step
        own = Step.of(terms)
        return Step(step.loss + own.loss, step.metrics | own.metrics)

    def reconstruct(self, batch: Batch, plan: MaskPlan) -> Tensor | None:
        with self._watch(self._places(plan)):
            return self.host.reconstruct(batch, plan)

    def no_weight_decay(self) -> Collection[str]:
        return [n if n.startswith("model.") else f"host.{n}" for n in self.host.no_weight_decay()]

    def _watch(self, places: Places) -> AbstractContextManager[list[Tensor]]:
        factors = None if self.gates is None else 2 * self.gates.float().sigmoid()
        return watched(self._blocks(), places, factors)

    def _blocks(self) -> list[nn.Module]:
        return list(_HOSTS[self.settings.host].blocks(self))

    def _places(self, plan: MaskPlan) -> Places:
        return _HOSTS[self.settings.host].places(plan, self.adapter.num_prefix)

    def _terms(self, states: Sequence[Tensor], places: Places) -> dict[str, tuple[Tensor, float]]:
        """The losses that are switched on, with their weights."""
        weights, terms = self.settings, dict[str, tuple[Tensor, float]]()
        with torch.autocast(states[0].device.type, enabled=False):
            first = _of_two_kinds(states[0], places)
            if weights.spatial:
                terms["spatial"] = (spatial_loss(*first), weights.spatial)
            if weights.entropy:
                terms["entropy"] = (entropy_loss(*first), weights.entropy)
            if weights.heterogeneity:
                levels = [heterogeneity(*_of_two_kinds(state, places)) for state in states]
                terms["heterogeneity"] = (rise(levels), weights.heterogeneity)
        return terms


def spatial_loss(masked: Tensor, visible: Tensor) -> Tensor:
    """Mean over all pairs of a mask token and a visible one of their cosine, as far as it is positive.

    Args:
        masked, visible: float32 [B, M, D] and [B, K, D].
    """
    cosines = F.normalize(masked, dim=-1) @ F.normalize(visible, dim=-1).transpose(1, 2)
    return cosines.relu().mean()


def entropy_loss(masked: Tensor, visible: Tensor) -> Tensor:
    """Mean entropy of a mask token's affinities to all tokens, 1 where all are alike and 0 where there is but one.

    Args:
        masked, visible: float32 [B, M, D] and [B, K, D].
    """
    everyone = F.normalize(torch.cat([masked, visible], dim=1), dim=-1)
    cosines = everyone[:, : masked.shape[1]] @ everyone.transpose(1, 2)
    logarithms = (cosines / _TEMPERATURE).log_softmax(dim=-1)
    return -(logarithms.exp() * logarithms).sum(dim=-1).mean() / math.log(everyone.shape[1])


def heterogeneity(masked: Tensor, visible: Tensor) -> Tensor:
    """KL(mean distribution of masked tokens || that of visible ones) over the channels, mean over the images.

    Args:
        masked, visible: float32 [B, M, D] and [B, K, D].
    """
    own, other = _mean_distribution(masked), _mean_distribution(visible)
    return (own.exp() * (own - other)).sum(dim=-1).mean()


def rise(levels: Sequence[Tensor]) -> Tensor:
    """How much a series of numbers goes up in all, whatever it goes down between."""
    return torch.stack(list(levels)).diff().relu().sum()


def _mean_distribution(tokens: Tensor) -> Tensor:
    """Logarithm [B, D] of the mean over tokens [B, N, D] of their softmax; it does not underflow, as the mean may."""
    return tokens.log_softmax(dim=-1).logsumexp(dim=1) - math.log(tokens.shape[1])


def _of_two_kinds(state: Tensor, places: Places) -> tuple[Tensor, Tensor]:
    """float32: the masked and the visible tokens of a state."""
    return gather_tokens(state, places.masked).float(), gather_tokens(state, places.visible).float()


def _of_host(schema: type, settings: MTOSettings) -> dict[str, Any]:
    """The settings that the host has too."""
    return {field.name: getattr(settings, field.name) for field in fields(schema)}


def _in_encoder(plan: MaskPlan, prefix: int) -> Places:
    """All patches by their ids."""
    return Places(prefix + plan.role.shape[1], prefix + plan.keep_ids, prefix + plan.mask_ids)


def _in_decoder(plan: MaskPlan, prefix: int) -> Places:
    """The visible patches, then the masked ones."""
    seen = prefix + plan.keep_ids.shape[1]
    tokens = seen + plan.mask_ids.shape[1]
    places = torch.arange(tokens, device=plan.role.device).expand(len(plan.role), -1)
    return Places(tokens, places[:, prefix:seen], places[:, seen:])


@dataclass(frozen=True)
class _Host:
    """Where a method has mask tokens.

    Attributes:
        blocks: Those that mask tokens go through, of the method that has the host.
        places: Of the tokens of each kind in them, for a plan and a number of prefix tokens.
    """

    blocks: Callable[[Any], Sequence[nn.Module]]
    places: Callable[[MaskPlan, int], Places]


_HOSTS = {
    "simmim": _Host(lambda method: method.model.blocks, _in_encoder),
    "mae": _Host(lambda method: method.host.pixels.decoder.blocks, _in_decoder),
}


METHODS.add("mto-experimental", MTOExperimental)
