"""The released training steps of MAE and DMAE, from checkouts that the user names; nothing of them is kept here.

    git clone https://github.com/facebookresearch/mae
    git clone https://github.com/UCSC-VLAA/DMAE

They were written for timm 0.3.2 and for numpy before 1.24. What has changed since is mended from here, in the loaded
modules alone: timm's block no longer takes `qk_scale`, and `numpy.float` is gone. Their attention is timm's, and was
not fused in that release; today's timm scales the queries instead of the products, so its unfused form is, if
anything, faster than theirs.
"""

from __future__ import annotations

import importlib
import math
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from edgemim.methods._base import Method

from .trainee import Trainee
from .training_cases import MASK_RATIO, Case

# File of the model in a checkout, by method.
_MODULES = {"mae": "models_mae", "dmae": "models_mae_distill"}
_DECODER = {
    "decoder_embed.": "pixels.decoder.embed.",
    "mask_token": "pixels.decoder.mask_token",
    "decoder_blocks.": "pixels.decoder.blocks.",
    "decoder_norm.": "pixels.decoder.norm.",
    "decoder_pred.": "pixels.decoder.predict.",
    "aligned_feature_projection_heads.": "projectors.",
}
_COMPUTED = "decoder_pos_embed"


class Official(Trainee):
    """A released step, with its own mixed precision: fp16 and a scaled loss on a GPU.

    It reads the loss, measures the norm of the gradients and waits for the device at every step, as released. On a
    CPU, for which it was not written, `bf16` is autocast to bf16 without a scaler.

    Args:
        checkout: Of the method's repository.
        case: What is trained.
        device: Where.
        precision: `fp32`, without mixed precision, or `bf16`, with.
        fused: timm's fused attention in place of its own.
        lr, betas, weight_decay: Of AdamW.
    """

    def __init__(
        self,
        checkout: Path,
        case: Case,
        *,
        device: torch.device,
        precision: str,
        fused: bool,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.05,
    ) -> None:
        self.device = device
        self.model, self.teacher = _networks(load_checkout(checkout, _MODULES[case.method]), case)
        self.model.to(device).train()
        if self.teacher is not None:
            self.teacher.to(device).eval()
        for network in (self.model, self.teacher or self.model):
            for module in network.modules():
                if hasattr(module, "fused_attn"):
                    module.fused_attn = fused
        self.half = torch.float16 if device.type == "cuda" else torch.bfloat16
        self.mixed = precision == "bf16"
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.mixed and device.type == "cuda")
        self.optimiser = torch.optim.AdamW(_groups(self.model, weight_decay), lr=lr, betas=betas)

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(self.device.type, self.half, enabled=self.mixed):
            if self.teacher is None:
                loss: Tensor = self.model(images, mask_ratio=MASK_RATIO)[0]
                value = loss.item()
            else:
                with torch.no_grad():
                    seen, mask, restore, keep = self.teacher.forward_encoder_customized(images, MASK_RATIO)
                    predicted = self.teacher.forward_decoder(seen[-1], restore)
                loss, matched, _, _ = self.model(images, keep, restore, mask, predicted, None, seen)
                value = loss.item()
                loss = loss + sum(matched.values())
        if not math.isfinite(value):
            raise SystemExit(f"the loss of the released step is {value}")
        return loss

    def backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()

    def update(self) -> None:
        self.scaler.unscale_(self.optimiser)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def forget(self) -> None:
        self.optimiser.zero_grad()


def load_checkout(checkout: Path, name: str) -> ModuleType:
    """Module `name` of a checkout, mended; afterwards no other import finds that folder.

    Raises:
        SystemExit: There is no such file.
    """
    if not (checkout / f"{name}.py").is_file():
        raise SystemExit(f"{checkout} has no {name}.py; give --reference the folder of a checkout")
    ours = {n: sys.modules.pop(n) for n in list(sys.modules) if _is_theirs(n, name)}
    sys.path.insert(0, str(checkout.resolve()))
    try:
        module = importlib.import_module(name)
    finally:
        sys.path.pop(0)
        for loaded in [n for n in sys.modules if _is_theirs(n, name)]:
            del sys.modules[loaded]
        sys.modules.update(ours)
    changed: Any = module
    changed.Block = _block
    changed.get_2d_sincos_pos_embed.__globals__["np"] = _OldNumpy()
    return module


def take_weights(method: Method, official: Official) -> None:
    """Give edgemim's method the weights of the released one.

    Raises:
        SystemExit: They do not fit.
    """
    state = _state(official.model)
    predictor = {o + k[len(t) :]: state.pop(k) for t, o in _DECODER.items() for k in [*state] if k.startswith(t)}
    method.backbone.load_state_dict(state)
    if set(predictor) != set(method.predictor_state()):
        raise SystemExit(f"these weights do not fit: {sorted(set(predictor) ^ set(method.predictor_state()))[:5]}")
    method.load_state_dict(predictor, strict=False)
    if method.teacher is not None:
        assert official.teacher is not None
        names = set(method.teacher.model.state_dict())
        method.teacher.model.load_state_dict({k: v for k, v in _state(official.teacher).items() if k in names})


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items() if k != _COMPUTED}


def _networks(module: Any, case: Case) -> tuple[Any, Any]:
    """Student and teacher as the released commands build them."""
    common = {
        "img_size": case.size,
        "patch_size": case.patch,
        "mlp_ratio": 4,
        "norm_layer": partial(nn.LayerNorm, eps=1e-6),
        "decoder_embed_dim": case.decoder.width,
        "decoder_depth": case.decoder.depth,
        "decoder_num_heads": case.decoder.heads,
    }

    def build(shape: Any, **own: Any) -> Any:
        size = {"embed_dim": shape.width, "depth": shape.depth, "num_heads": shape.heads}
        return module.MaskedAutoencoderViT(**common, **size, **own)

    if case.teacher is None:
        return build(case.student, norm_pix_loss=True), None
    student = build(
        case.student,
        embedding_distillation_func="L1",
        aligned_blks_indices=[case.matched(case.student)],
        student_reconstruction_target="original_img",
        aligned_feature_projection_mode="fc-1layer",
        aligned_feature_projection_dim=[case.student.width, case.teacher.width],
    )
    taught = [case.matched(case.teacher)]
    return student, build(case.teacher, embedding_distillation_func="L1", aligned_blks_indices=taught)


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """No decay on biases and other 1-D tensors, as timm's helper of that time had it."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    plain = [p for n, p in named if p.dim() == 1 or n.endswith(".bias")]
    others = [p for n, p in named if not (p.dim() == 1 or n.endswith(".bias"))]
    return [{"params": plain, "weight_decay": 0.0}, {"params": others, "weight_decay": weight_decay}]


def _is_theirs(module: str, name: str) -> bool:
    return module in (name, "util") or module.startswith("util.")


def _block(*arguments: Any, qk_scale: None = None, **named: Any) -> nn.Module:
    assert qk_scale is None
    return Block(*arguments, **named)


class _OldNumpy:
    """numpy with the alias that it dropped."""

    float = float

    def __getattr__(self, name: str) -> Any:
        return getattr(numpy, name)
