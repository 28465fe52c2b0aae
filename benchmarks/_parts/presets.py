"""Sizes and lengths of the comparisons of `methods_cifar10.py`, and which rows run with every seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

# Of CIFAR-10: side of an image in pixels, and images to train on.
SIZE = 32
TRAIN_IMAGES = 50_000
BASELINES = ("scratch", "scratch-long", "mae")
CONVNET_BASELINES = ("scratch-convnet", "scratch-long-convnet")
# The rows whose time the others get at equal seconds.
REFERENCE, CONVNET_REFERENCE = "mae", "spark"
# What the second batch of methods is judged by: intervals, so seeds.
_SECOND_BATCH = (
    "amt",
    "cae",
    "caev2",
    "droppos",
    "gmml",
    "hpm",
    "mixedae",
    "mp3",
    "mto-experimental",
    "selfie",
    "sit",
    "spark",
    "spark-dmae",
)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Sizes and lengths of a comparison.

    Attributes:
        train_images, test_images: How many, evenly from the classes; 0: all.
        student, teacher: timm name and arguments; both are ViTs.
        convnet: The student of methods for convnets and of their baselines.
        batch_size: Images per update, everywhere.
        updates: Of each student before fine-tuning.
        finetune_updates: Of each student.
        teacher_updates, teacher_finetune_updates: Of the one teacher.
        ranked: Rows that run with every seed; the others run with the first one. Empty: all rows.
        seeds: The seeds.
        precision: Of the training. That of a CPU is fixed, so that runs of two machines can be held together.
    """

    train_images: int = 0
    test_images: int = 0
    student: Mapping[str, Any]
    teacher: Mapping[str, Any]
    convnet: Mapping[str, Any]
    batch_size: int
    updates: int
    finetune_updates: int
    teacher_updates: int
    teacher_finetune_updates: int
    ranked: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    precision: Literal["fp32", "bf16", "fastest"] = "fp32"

    @property
    def images(self) -> int:
        """That are trained on; `--validation` takes some of all of them away, which lengths do not follow."""
        return self.train_images or TRAIN_IMAGES

    @property
    def epochs(self) -> float:
        """Passes through the images in the updates before fine-tuning."""
        return self.updates * self.batch_size / self.images


def _vit(*, patch_size: int, embed_dim: int, depth: int, num_heads: int) -> dict[str, Any]:
    shape = {"patch_size": patch_size, "embed_dim": embed_dim, "depth": depth, "num_heads": num_heads}
    return {"name": "vit_tiny_patch16_224", "img_size": SIZE, **shape}


def _convnet(*, depths: Sequence[int], dims: Sequence[int]) -> dict[str, Any]:
    """It starts from single pixels and ends at stride 8, so that an image is 4 x 4 cells: stride 32 would leave one."""
    shape = {"patch_size": 1, "depths": list(depths), "dims": list(dims), "kernel_sizes": 3}
    return {"name": "convnextv2_atto", **shape}


# Teacher and student have equally many heads, since the first version of MiniLM compares them one to one.
PRESETS = {
    "cpu": Preset(
        train_images=10_000,
        student=_vit(patch_size=8, embed_dim=128, depth=6, num_heads=4),
        teacher=_vit(patch_size=8, embed_dim=192, depth=9, num_heads=4),
        convnet=_convnet(depths=(1, 1, 2, 1), dims=(16, 32, 64, 128)),
        batch_size=64,
        updates=900,
        finetune_updates=600,
        teacher_updates=2700,
        teacher_finetune_updates=600,
        ranked=(*BASELINES, *CONVNET_BASELINES, "feature", "dmae", *_SECOND_BATCH),
    ),
    "gpu": Preset(
        student=_vit(patch_size=4, embed_dim=192, depth=12, num_heads=6),
        teacher=_vit(patch_size=4, embed_dim=384, depth=12, num_heads=6),
        convnet=_convnet(depths=(2, 2, 6, 2), dims=(40, 80, 160, 320)),
        batch_size=256,
        updates=20_000,
        finetune_updates=10_000,
        teacher_updates=40_000,
        teacher_finetune_updates=10_000,
        precision="fastest",
    ),
    "tiny": Preset(
        train_images=80,
        test_images=40,
        student=_vit(patch_size=8, embed_dim=32, depth=2, num_heads=2),
        teacher=_vit(patch_size=8, embed_dim=48, depth=3, num_heads=2),
        convnet=_convnet(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32)),
        batch_size=16,
        updates=4,
        finetune_updates=2,
        teacher_updates=4,
        teacher_finetune_updates=2,
        ranked=("scratch", "mae", "scratch-convnet", "dmae", "amt", "spark"),
    ),
}
