"""The backbones that edgemim promises to export: the smallest variant of each family that timm has.

Weights are random and fixed, and such that a wrong graph shows. A fresh model hides most of itself: layer scales of
1e-5, zero-initialised branches, batch statistics of nothing. Here every vector is moved by noise, batch norms have
seen images, and the head is scaled so that outputs differ between images and the largest of them is 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from edgemim.models.build import build_backbone, classifiers, input_size

CLASSES = 10
IMAGES = 6
_NOISE = 0.1
# Side of the cells of noise that an image is made of, in pixels of the image before it is enlarged.
_CELLS = (2, 3, 5, 8, 16, 64)


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A timm model.

    Attributes:
        family: As its paper calls it.
        name: timm architecture.
        arguments: For timm; its defaults but for inputs that nobody would run on a small device.
    """

    family: str
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


_224 = {"img_size": 224}
_FAMILIES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    # Transformers.
    ("ViT-Ti", "vit_tiny_patch16_224", {}),
    ("ViT-S", "vit_small_patch16_224", {}),
    ("ViT-B", "vit_base_patch16_224", {}),
    ("BEiT", "beit_base_patch16_224", {}),
    ("BEiT-3", "beit3_base_patch16_224", {}),
    ("CaiT", "cait_xxs24_224", {}),
    ("CLIP ViT-XS", "vit_xsmall_patch16_clip_224", {}),
    ("CLIP ViT-B/32", "vit_base_patch32_clip_224", {}),
    ("CoaT", "coat_tiny", {}),
    ("ConViT", "convit_tiny", {}),
    ("CrossViT", "crossvit_tiny_240", {}),
    ("DaViT", "davit_tiny", {}),
    ("DeiT, distilled", "deit_tiny_distilled_patch16_224", {}),
    ("DeiT-III", "deit3_small_patch16_224", {}),
    ("DINOv2, registers", "vit_small_patch14_reg4_dinov2", _224),
    ("DINOv3, RoPE", "vit_small_patch16_dinov3", {}),
    ("EVA-02, RoPE", "eva02_tiny_patch14_224", {}),
    ("FlexiViT (NaFlex)", "naflexvit_base_patch16_gap", {}),
    ("GC ViT", "gcvit_xxtiny", {}),
    ("Hiera", "hiera_tiny_224", {}),
    ("MViTv2", "mvitv2_tiny", {}),
    ("NesT", "nest_tiny", {}),
    ("PiT", "pit_ti_224", {}),
    ("PVTv2", "pvt_v2_b0", {}),
    ("SAM's ViT", "samvit_base_patch16_224", {}),
    ("SigLIP", "vit_base_patch16_siglip_224", {}),
    ("Swin", "swin_tiny_patch4_window7_224", {}),
    ("Swin V2", "swinv2_tiny_window8_256", {}),
    ("TNT", "tnt_s_patch16_224", {}),
    ("Twins-SVT", "twins_svt_small", {}),
    ("VOLO", "volo_d1_224", {}),
    ("XCiT", "xcit_nano_12_p16_224", {}),
    # Attention and convolutions.
    ("BoTNet", "botnet26t_256", {}),
    ("CAFormer", "caformer_s18", {}),
    ("CoAtNet", "coatnet_pico_rw_224", {}),
    ("CSATv2", "csatv2", {}),
    ("EdgeNeXt", "edgenext_xx_small", {}),
    ("EfficientFormer", "efficientformer_l1", {}),
    ("EfficientFormerV2", "efficientformerv2_s0", {}),
    ("EfficientViT (MIT)", "efficientvit_b0", {}),
    ("EfficientViT (MSRA)", "efficientvit_m0", {}),
    ("FastViT", "fastvit_t8", {}),
    ("HaloNet", "halonet26t", {}),
    ("LambdaNetworks", "lambda_resnet26t", {}),
    ("LeViT", "levit_128s", {}),
    ("MaxViT", "maxvit_rmlp_pico_rw_256", {}),
    ("MobileNetV4, hybrid", "mobilenetv4_hybrid_medium", {}),
    ("MobileViT", "mobilevit_xxs", {}),
    ("MobileViTv2", "mobilevitv2_050", {}),
    ("NextViT", "nextvit_small", {}),
    ("PoolFormer", "poolformer_s12", {}),
    ("RepViT", "repvit_m0_9", {}),
    ("SHViT", "shvit_s1", {}),
    ("SwiftFormer", "swiftformer_xs", {}),
    ("TinyViT", "tiny_vit_5m_224", {}),
    ("Visformer", "visformer_tiny", {}),
    ("ViTamin", "vitamin_small_224", {}),
    # Convolutions.
    ("ConvNeXt", "convnext_atto", {}),
    ("ConvNeXt V2", "convnextv2_atto", {}),
    ("DenseNet", "densenet121", {}),
    ("EfficientNet", "efficientnet_b0", {}),
    ("EfficientNet-Lite", "efficientnet_lite0", {}),
    ("FasterNet", "fasternet_t0", {}),
    ("FocalNet", "focalnet_tiny_srf", {}),
    ("GhostNet", "ghostnet_050", {}),
    ("GhostNetV3", "ghostnetv3_050", {}),
    ("HGNetV2", "hgnetv2_b0", {}),
    ("HRNet", "hrnet_w18_small", {}),
    ("InceptionNeXt", "inception_next_atto", {}),
    ("LCNet", "lcnet_050", {}),
    ("MambaOut", "mambaout_femto", {}),
    ("MobileNetV3", "mobilenetv3_small_050", {}),
    ("MobileNetV4", "mobilenetv4_conv_small", {}),
    ("MobileOne", "mobileone_s0", {}),
    ("NF-ResNet", "nf_resnet26", {}),
    ("RDNet", "rdnet_tiny", {}),
    ("RegNetY", "regnety_002", {}),
    ("RepGhost", "repghostnet_050", {}),
    ("RepVGG", "repvgg_a0", {}),
    ("ResNeSt", "resnest14d", {}),
    ("ResNet-18", "resnet18", {}),
    ("ResNet-50", "resnet50", {}),
    ("ReXNet", "rexnet_100", {}),
    ("StarNet", "starnet_s050", {}),
    # Neither.
    ("gMLP", "gmlp_ti16_224", {}),
    ("MLP-Mixer", "mixer_s32_224", {}),
    ("ResMLP", "resmlp_12_224", {}),
    ("Sequencer, LSTM", "sequencer2d_s", {}),
)
BACKBONES = tuple(Backbone(family=family, name=name, arguments=args) for family, name, args in _FAMILIES)


def build(backbone: Backbone) -> tuple[nn.Module, Tensor]:
    """A model in eval mode, and images for it.

    Returns:
        The model, whose outputs [B, 10] are at most 1, and float32 images [6, 3, H, W].
    """
    rng = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_backbone(backbone.name, backbone.arguments, num_classes=CLASSES).eval()
    images = _images(input_size(model, backbone.arguments), rng)
    with torch.no_grad():
        _move(model, rng)
        _meet(model, images)
        _scale_head(model, images)
    return model, images


def outputs(model: nn.Module, images: Tensor) -> Tensor:
    """Of one image at a time, as a device runs them: [B, 10]."""
    with torch.no_grad():
        return torch.cat([model(image[None]) for image in images])


def _images(size: tuple[int, int], rng: torch.Generator) -> Tensor:
    """Noise from coarse to fine, each with a colour of its own: plain white noise looks the same to most models."""
    images = []
    for index in range(IMAGES):
        cells = _CELLS[index % len(_CELLS)]
        noise = torch.randn(1, 3, cells, cells, generator=rng)
        colour = 0.5 * torch.randn(1, 3, 1, 1, generator=rng)
        images.append(colour + nn.functional.interpolate(noise, size=size, mode="bilinear"))
    return torch.cat(images)


def _move(model: nn.Module, rng: torch.Generator) -> None:
    """Away from the special values that parameters begin at."""
    for parameter in model.parameters():
        if parameter.ndim <= 1 or not parameter.any():
            parameter.add_(_NOISE * torch.randn(parameter.shape, generator=rng))


def _meet(model: nn.Module, images: Tensor) -> None:
    """Give every batch norm the statistics of what reaches it."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches, which are one
        norm.train()
    model(images)
    for norm in norms:
        norm.eval()


def _scale_head(model: nn.Module, images: Tensor) -> None:
    """Outputs with a mean of 0 over the images for each class, and a largest of 1."""
    logits = outputs(model, images)
    mean = logits.mean(0)
    largest = (logits - mean).abs().max()
    for prefix in classifiers(model):
        module = model.get_submodule(prefix.rstrip("."))
        last = [layer for layer in module.modules() if isinstance(layer, nn.Linear | nn.Conv2d)][-1]
        last.weight.div_(largest)
        assert last.bias is not None
        last.bias.sub_(mean).div_(largest)
