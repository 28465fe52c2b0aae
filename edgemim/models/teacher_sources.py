"""Where a teacher may come from: one of our folders, a timm folder, a weights file, a timm name or a hub id."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgemim.artifact import MANIFEST, sha256_of
from edgemim.errors import CheckpointError, ConfigError
from edgemim.models.build import build_backbone, check_arguments, classifiers
from edgemim.models.checkpoint import load_checkpoint
from edgemim.models.statistics import Statistics, given_statistics, statistics_of, statistics_of_file
from edgemim.models.weights import build_fitting, load_matching, read_state_dict

# What pretraining checkpoints hold beside the encoder, and heads that a teacher does not need.
_NOT_ENCODER = ("decoder_", "decoder.", "mask_token", "predictor.", "aligned_feature_projection_heads.")
_HEADS = ("head.", "fc_norm.", "head_dist.")
# Names that the authors' files of SimMIM and BEiT have and timm's do not.
_OF_LAYOUTS = ("encoder.", "rel_pos_bias.relative_position_index", "blocks.0.attn.relative_position_index", "lm_head.")
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
_OURS = ("source", "backbone", "licence", "mean", "std")


@dataclass(frozen=True, kw_only=True)
class Found:
    """A teacher's model and what its source says of it.

    Attributes:
        size: Height and width of its images in pixels, for models that take any; None: timm's own size.
        resampled_from: Patch grid of a position table that was resampled; None where none was.
    """

    model: nn.Module
    architecture: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int] | None = None
    sha256: str | None = None
    licence: str | None = None
    class_names: tuple[str, ...] | None = None
    resampled_from: tuple[int, int] | None = None


def find_teacher(source: str, settings: Mapping[str, Any], *, with_head: bool) -> Found:
    """Load a teacher's model; see `load_teacher`.

    Raises:
        CheckpointError: It cannot be read, fetched or matched.
        ConfigError: It is not a name, path or id that is known, or the settings contradict it.
    """
    arguments = {k: v for k, v in settings.items() if k not in _OURS}
    named, given = str(settings.get("backbone", "")), given_statistics(settings)
    path = Path(source)
    if path.is_dir():
        load = _from_our_folder if (path / MANIFEST).exists() else _from_timm_folder
        found = load(path, arguments, with_head)
    elif path.suffix in (".pth", ".pt", ".bin", ".safetensors", ".ckpt"):
        found = _from_weights(path, named, given, arguments, with_head)
    elif _looks_local(source):
        raise CheckpointError(f"teacher {source} does not exist; give a folder or weights file that does")
    else:
        found = _from_timm(source, arguments, with_head)
    if named.split(".")[0] not in ("", found.architecture):
        raise ConfigError(
            f"teacher {source} is a {found.architecture}, teacher.backbone says {named}; leave teacher.backbone out"
        )
    return found if given is None else dataclasses.replace(found, mean=given[0], std=given[1])


def _from_our_folder(path: Path, arguments: Mapping[str, Any], with_head: bool) -> Found:
    checkpoint = load_checkpoint(path)
    model, resampled_from = checkpoint.model, None
    if arguments or not with_head:
        classes = checkpoint.num_classes if with_head else 0
        model = build_backbone(
            checkpoint.architecture, {**checkpoint.info.model_args, **arguments}, num_classes=classes
        )
        resampled_from = _fill(model, checkpoint.model.state_dict(), source=str(path), with_head=with_head)
    licences = [p["licence"] for p in checkpoint.artifact.provenance if p.get("licence")]
    return Found(
        model=model,
        architecture=checkpoint.architecture,
        mean=checkpoint.preprocess.mean,
        std=checkpoint.preprocess.std,
        size=None if "img_size" in arguments else checkpoint.preprocess.size,
        sha256=checkpoint.artifact.files["model.safetensors"].sha256,
        licence=licences[-1] if licences else None,
        class_names=checkpoint.class_names,
        resampled_from=resampled_from,
    )


def _from_timm_folder(path: Path, arguments: Mapping[str, Any], with_head: bool) -> Found:
    config_file = path / "config.json"
    files = [path / name for name in _WEIGHT_FILES if (path / name).is_file()]
    if not config_file.is_file() or not files:
        raise CheckpointError(
            f"teacher {path} is no checkpoint folder: it needs config.json and one of {', '.join(_WEIGHT_FILES)}"
        )
    try:
        config = json.loads(config_file.read_text("utf-8"))
        architecture = str(config["architecture"])
        pretrained = dict(config.get("pretrained_cfg", config))
        own = {k: v for k, v in config.get("model_args", {}).items() if k != "num_classes"}
        size = (
            (int(pretrained["input_size"][1]), int(pretrained["input_size"][2])) if "input_size" in pretrained else None
        )
    except (json.JSONDecodeError, UnicodeDecodeError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{config_file} is not a timm config: {error}") from error
    if size and pretrained.get("fixed_input_size"):
        own.setdefault("img_size", size)  # as timm does: older folders say it here only
    state = read_state_dict(files[0])
    model, _, _ = build_fitting(architecture, {**own, **arguments}, state, with_head=with_head)
    mean, std = statistics_of(pretrained)
    return Found(
        model=model,
        architecture=architecture,
        mean=mean,
        std=std,
        size=None if "img_size" in arguments else size,
        sha256=sha256_of(files[0]),
        licence=pretrained.get("license"),
        resampled_from=_fill(model, state, source=str(files[0]), with_head=with_head),
    )


def _from_weights(
    path: Path, named: str, given: Statistics | None, arguments: Mapping[str, Any], with_head: bool
) -> Found:
    if not path.is_file():
        raise CheckpointError(f"teacher {path} does not exist")
    if not named:
        raise ConfigError(
            f"teacher {path} is a weights file, which does not say what it is; "
            "add --set teacher.backbone=NAME (for example vit_large_patch16_224)"
        )
    architecture = named.split(".")[0]
    state = read_state_dict(path)
    model, _, _ = build_fitting(architecture, arguments, state, with_head=with_head)
    resampled_from = _fill(model, state, source=str(path), with_head=with_head)
    mean, std = given or statistics_of_file(named)
    return Found(
        model=model,
        architecture=architecture,
        mean=mean,
        std=std,
        sha256=sha256_of(path),
        resampled_from=resampled_from,
    )


def _from_timm(source: str, arguments: Mapping[str, Any], with_head: bool) -> Found:
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
    head = {} if with_head else {"num_classes": 0}
    try:
        model = timm.create_model(source, pretrained=True, **head, **arguments)
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
    mean, std = statistics_of(config)
    return Found(
        model=model,
        architecture=config.get("architecture", name),
        mean=mean,
        std=std,
        licence=config.get("license"),
    )


def _fill(model: nn.Module, state: Mapping[str, Tensor], *, source: str, with_head: bool) -> tuple[int, int] | None:
    """Load a teacher's weights, and return the grid that its positions were resampled from, if they were."""
    state, grid = _on_grid_of(model, state)
    ignored = _NOT_ENCODER if with_head else (*_NOT_ENCODER, *_HEADS, *classifiers(model))
    try:
        load_matching(model, state, source=source, ignore=ignored)
    except CheckpointError as error:
        if not any(name.startswith(_OF_LAYOUTS) for name in state):
            raise
        raise CheckpointError(
            f"{error}; it looks like a file of SimMIM or BEiT: make a folder of it with edgemim convert"
        ) from error
    return grid


@torch.no_grad()
def _on_grid_of(model: nn.Module, state: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], tuple[int, int] | None]:
    """A position table for images of another size, resampled to the model's grid as timm does when it loads one."""
    from timm.layers import resample_abs_pos_embed

    own, given = getattr(model, "pos_embed", None), state.get("pos_embed")
    grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if own is None or given is None or grid is None or own.dim() != 3 or own.shape == given.shape:
        return state, None
    prefix = 0 if getattr(model, "no_embed_class", False) else int(getattr(model, "num_prefix_tokens", 0))
    side = round(max(0, given.shape[1] - prefix) ** 0.5) if given.dim() == 3 else 0
    if side < 1 or given.shape != (1, prefix + side * side, own.shape[2]):
        return state, None
    table = resample_abs_pos_embed(given.float(), new_size=list(grid), old_size=[side, side], num_prefix_tokens=prefix)
    return {**state, "pos_embed": table}, (side, side)


def _looks_local(source: str) -> bool:
    """Whether a name that is no file is meant as one: a mistyped path must not be asked for at a hub."""
    return source.startswith((".", "/", "~")) or ("/" in source and Path(source).parent.is_dir())
