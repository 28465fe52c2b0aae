"""MP3: patches come without their positions, and see a few of them; where does each belong?

Source: Zhai et al., "Position Prediction as an Effective Pretraining Strategy", ICML 2022, arXiv:2207.07611.
Command: pretrain
Needs: a plain ViT with separate patches
Differs: there is no released code, and all but the idea is known to us at second hand: the share of patches that
    nobody sees (0.75 here, 0.5 to 0.75 in notes on the paper) and how long to train; the other training settings of
    the recipe are those of MAE. Class and register tokens are queries as all tokens are, and beside the context they
    are keys; that they are is inferred. They carry no position, so they can pass on none. The head starts with
    Xavier-uniform weights. Patches that a masking drops take no part. The blocks meet no position before
    fine-tuning: the backbone keeps its table of sines and cosines, ships it, and adds it whenever it runs whole
    images, which includes the k-NN score of a run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.masking._base import MaskingStrategy
from edgemim.methods import METHODS
from edgemim.methods._base import Batch, Method, Step
from edgemim.methods._places import check_patches_alone, share_placed
from edgemim.models.adapters.base import QKV, BackboneAdapter, TokenAdapter
from edgemim.models.initialise import initialise_linear
from edgemim.models.mask_plan import MaskPlan
from edgemim.models.teachers import Teacher


@dataclass(frozen=True, kw_only=True)
class MP3Settings:
    """Settings of `mp3`; how many patches are seen is the masking's.

    Args:
        label_smoothing: Share of each target that goes to all positions alike, in [0, 1).
    """

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"method.label_smoothing must lie in [0, 1); got {self.label_smoothing}")


class MP3(Method):
    """See the module.

    Raises:
        ConfigError: The patches of the backbone overlap, or are padded.
    """

    Settings = MP3Settings
    student_needs = ("tokens",)
    adapter: TokenAdapter

    def __init__(
        self,
        adapter: BackboneAdapter,
        masking: MaskingStrategy,
        settings: Any,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__(adapter, masking, settings, teacher)
        assert isinstance(adapter, TokenAdapter)
        check_patches_alone(adapter)
        self.head = nn.Linear(adapter.width, adapter.grid[0] * adapter.grid[1]).apply(initialise_linear)

    def forward(self, batch: Batch, rng: torch.Generator, plan: MaskPlan | None = None) -> Step:
        plan = plan or self.draw(batch, rng)
        scores, ids = self.place(batch.images, plan)
        wrong = F.cross_entropy(scores.flatten(0, 1), ids.flatten(), label_smoothing=self.settings.label_smoothing)
        step = Step.of({"positions": (wrong, 1.0)})
        return Step(step.loss, step.metrics | {"accuracy": share_placed(scores, ids)})

    def place(self, images: Tensor, plan: MaskPlan) -> tuple[Tensor, Tensor]:
        """Scores of all places, float32 [B, K + M, L], for the visible and then the masked patches, and their ids."""
        adapter = self.adapter
        ids = torch.cat([plan.keep_ids, plan.mask_ids], dim=1)
        context = adapter.num_prefix + plan.keep_ids.shape[1]

        def attend(block: int, qkv: QKV) -> Tensor:
            # Without positions the order of tokens means nothing, so what may be seen can stand in front.
            return F.scaled_dot_product_attention(qkv.queries, qkv.keys[:, :, :context], qkv.values[:, :, :context])

        tokens = adapter.run(adapter.with_prefix(adapter.embed(images, ids)), attend=attend).final
        return self.head(tokens[:, adapter.num_prefix :]).float(), ids


METHODS.add("mp3", MP3)
