"""Teachers: a frozen backbone from a timm name, one of our folders, a timm folder, a hub id or a weights file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemim.artifact import MANIFEST, sha256_of
from edgemim.errors import CheckpointError, ConfigError
from edgemim.models.adapters import adapt
from edgemim.models.adapters.base import BackboneAdapter, Features
from edgemim.models.build import build_backbone, check_arguments
from edgemim.models.checkpoint import load_checkpoint
from edgemim.models.mask_plan import MaskPlan
from edgemim.models.weights import load_matching, read_state_dict
from edgemim.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess

# What pretraining checkpoints hold beside the encoder, and heads that a teacher does not need.
_NOT_ENCODER = ("decoder_", "decoder.", "mask_token", "head.", "fc_norm.", "head_dist.", "predictor.")
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True, kw_only=True)
class TeacherOrigin:
    """Where a teacher came from, for the provenance.

    Attributes:
        source: As the user gave it.
        licence: Of its weights, or "unknown".
        sha256: Of its weights file, where it is a local one.
    """

    source: str
    architecture: str
    licence: str
    sha256: str | None


class Teacher(nn.Module):
    """A frozen backbone that takes the student's images.

    Args:
        adapter: Of the teacher's backbone.
        origin: For the provenance.
        mean, std: Statistics that the teacher was trained with.
        student: The student's contract; images normalised by it are re-normalised for the teacher.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        adapter: BackboneAdapter,
        origin: TeacherOrigin,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        student: Preprocess,
    ) -> None:
        super().__init__()
        self.adapter = adapter
        self.origin = origin
        self.model = adapter.backbone.requires_grad_(False).eval()
        own_mean, own_std = torch.tensor(mean), torch.tensor(std)
        scale, shift = torch.tensor(student.std) / own_std, (torch.tensor(student.mean) - own_mean) / own_std
        self.register_buffer("scale", scale.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", shift.view(1, 3, 1, 1), persistent=False)
        self._same = mean == student.mean and std == student.std

    def train(self, mode: bool = True) -> Teacher:
        """A teacher stays in eval mode whatever its parent does."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor, plan: MaskPlan | None = None, **asked: Any) -> Features:
        """Features of the student's images, without gradient; `asked` goes to `BackboneAdapter.forward`."""
        return self.adapter.forward(self.prepare(images), plan, **asked)

    def prepare(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] normalised as the student's, as the teacher takes them: its statistics, its size."""
        images = self.own_statistics(images)
        if tuple(images.shape[2:]) == self.adapter.size:
            return images
        return F.interpolate(images, self.adapter.size, mode="bicubic", antialias=True)

    def own_statistics(self, images: Tensor) -> Tensor:
        """Images normalised as the student's, re-normalised as the teacher's."""
        return images if self._same else images * self.scale + self.shift

    def match(self, grid: tuple[int, int]) -> None:
        """Let the teacher see images of such a size that its final tokens lie on `grid`.

        Its patches keep their size; its positions are resampled.

        Raises:
            ConfigError: It cannot take images of that size.
        """
        if self.adapter.output_grid == grid:
            return
        stride = self.adapter.stride
        size = (grid[0] * stride[0], grid[1] * stride[1])
        try:
            self.adapter = self.adapter.resize(size)
        except ConfigError as error:
            raise ConfigError(
                f"the teacher's patch grid {_x(self.adapter.output_grid)} is not the student's {_x(grid)}, and it "
                f"cannot be resized: {error}; choose backbone.img_size and backbone.patch_size so that they agree"
            ) from error
        if self.adapter.output_grid != grid:
            raise ConfigError(
                f"with images of {_x(size)} the teacher's patch grid is {_x(self.adapter.output_grid)}, not the "
                f"student's {_x(grid)}; choose backbone.img_size and backbone.patch_size so that they agree"
            )


def load_teacher(source: str, settings: Mapping[str, Any], *, student: Preprocess) -> Teacher:
    """Load a teacher.

    Args:
        source: Folder, weights file, timm name, or `hf-hub:OWNER/NAME`.
        settings: `backbone` (needed with a weights file), `licence`, and timm arguments.
        student: The contract of the images that it will get.

    Raises:
        CheckpointError: It cannot be read, fetched or matched.
        ConfigError: It is not a name, path or id that is known.
    """
    arguments = {k: v for k, v in settings.items() if k not in ("source", "backbone", "licence")}
    architecture, licence = str(settings.get("backbone", "")), str(settings.get("licence", ""))
    path = Path(source)
    if path.is_dir():
        loaded = _from_our_folder(path) if (path / MANIFEST).exists() else _from_timm_folder(path)
    elif path.suffix in (".pth", ".pt", ".bin", ".safetensors", ".ckpt"):
        loaded = _from_weights(path, architecture, arguments)
    elif _looks_local(source):
        raise CheckpointError(f"teacher {source} does not exist; give a folder or weights file that does")
    else:
        loaded = _from_timm(source, arguments)
    model, name, sha256, known_licence, mean, std = loaded
    origin = TeacherOrigin(
        source=source, architecture=name, licence=licence or known_licence or "unknown", sha256=sha256
    )
    return Teacher(adapt(model), origin, mean=mean, std=std, student=student)


def _x(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


_Loaded = tuple[nn.Module, str, str | None, str | None, tuple[float, ...], tuple[float, ...]]


def _from_our_folder(path: Path) -> _Loaded:
    checkpoint = load_checkpoint(path)
    licences = [p["licence"] for p in checkpoint.artifact.provenance if p.get("licence")]
    contract = checkpoint.preprocess
    sha256 = checkpoint.artifact.files["model.safetensors"].sha256
    licence = licences[-1] if licences else None
    return checkpoint.model, checkpoint.architecture, sha256, licence, contract.mean, contract.std


def _from_timm_folder(path: Path) -> _Loaded:
    config_file = path / "config.json"
    files = [path / name for name in _WEIGHT_FILES if (path / name).is_file()]
    if not config_file.is_file() or not files:
        raise CheckpointError(
            f"teacher {path} is no checkpoint folder: it needs config.json and one of {', '.join(_WEIGHT_FILES)}"
        )
    try:
        config = json.loads(config_file.read_text("utf-8"))
        architecture = config["architecture"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{config_file} is not a timm config: {error}") from error
    pretrained = config.get("pretrained_cfg", config)
    model_args = {k: v for k, v in config.get("model_args", {}).items() if k != "num_classes"}
    model = build_backbone(architecture, model_args)
    load_matching(model, read_state_dict(files[0]), source=str(files[0]), ignore=_NOT_ENCODER)
    mean, std = _statistics(pretrained)
    return model, architecture, sha256_of(files[0]), pretrained.get("license"), mean, std


def _from_weights(path: Path, architecture: str, arguments: Mapping[str, Any]) -> _Loaded:
    if not path.is_file():
        raise CheckpointError(f"teacher {path} does not exist")
    if not architecture:
        raise ConfigError(
            f"teacher {path} is a weights file, which does not say what it is; "
            "add --set teacher.backbone=NAME (for example vit_large_patch16_224)"
        )
    state = read_state_dict(path)
    model = build_backbone(architecture, arguments)
    load_matching(model, state, source=str(path), ignore=_NOT_ENCODER)
    return model, architecture, sha256_of(path), None, IMAGENET_MEAN, IMAGENET_STD


def _looks_local(source: str) -> bool:
    """Whether a name that is no file is meant as one: a mistyped path must not be asked for at a hub."""
    return source.startswith((".", "/", "~")) or ("/" in source and Path(source).parent.is_dir())


def _from_timm(source: str, arguments: Mapping[str, Any]) -> _Loaded:
    import timm
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    check_arguments(arguments)
    name = source.split(".")[0]
    if not source.startswith("hf-hub:") and "/" in source:
        source = f"hf-hub:{source}"
    if not source.startswith("hf-hub:") and not timm.is_model(name):
        raise ConfigError(
            f"teacher {source!r} is neither a folder, a weights file, a timm model nor a hub id (owner/name)"
        )
    what = source.removeprefix("hf-hub:")
    try:
        model = timm.create_model(source, pretrained=True, num_classes=0, **arguments)
    except HFValidationError as error:
        raise ConfigError(
            f"teacher {what!r} is no folder or weights file that exists, and no hub id (owner/name)"
        ) from error
    except (TypeError, AssertionError) as error:
        raise ConfigError(f"teacher {what!r} refuses {dict(arguments)}: {error}") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise CheckpointError(
            f"cannot fetch the weights of teacher {source!r}: {reason}; check the name and the network, "
            "or give a local folder or file"
        ) from error
    config = model.pretrained_cfg
    mean, std = _statistics(config)
    return model, config.get("architecture", name), None, config.get("license"), mean, std


def _statistics(config: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(config.get("mean") or IMAGENET_MEAN), tuple(config.get("std") or IMAGENET_STD)
