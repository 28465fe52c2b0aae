"""State dicts from elsewhere as checkpoint folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from edgemim.artifact import Artifact, refuse_existing, sha256_of, stage_record
from edgemim.config import build
from edgemim.errors import ConfigError
from edgemim.models.build import build_backbone, input_size
from edgemim.models.checkpoint import CheckpointInfo, save_checkpoint
from edgemim.models.weights import load_matching, read_state_dict
from edgemim.preprocess import Preprocess
from edgemim.registry import did_you_mean

LAYOUTS = ("timm",)
# What pretraining files hold beside the encoder.
_PREDICTOR = ("decoder_", "decoder.", "mask_token")


def convert_file(
    file: Path,
    out: Path,
    *,
    layout: str,
    settings: Mapping[str, Any],
    licence: str | None = None,
    overwrite: bool = False,
) -> Artifact:
    """Write a checkpoint folder from a state dict whose names are timm's.

    The number of classes is that of the file's own head; the preprocessing contract is timm's for this
    architecture unless `settings["preprocess"]` says otherwise.

    Args:
        file: A `.pth` or `.safetensors` file; never unpickled.
        out: The checkpoint folder.
        layout: One of `LAYOUTS`.
        settings: `backbone` (name and timm arguments) and, optionally, `preprocess`.
        licence: Of the weights, for the provenance.
        overwrite: Replace a folder that edgemim wrote.

    Raises:
        ConfigError: Unknown layout or setting, or no backbone named.
        CheckpointError: The file is damaged, holds code, or does not fit the backbone.
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"unknown layout {layout!r} for --from{did_you_mean(layout, LAYOUTS)}")
    unknown = [name for name in settings if name not in ("backbone", "preprocess")]
    if unknown:
        raise ConfigError(f"unknown setting {unknown[0]!r}{did_you_mean(unknown[0], ('backbone', 'preprocess'))}")
    refuse_existing(out, overwrite=overwrite)
    arguments = dict(settings.get("backbone", {}))
    name = arguments.pop("name", "")
    if not name:
        raise ConfigError("a state dict does not say what it is; name its architecture with --backbone")
    state = read_state_dict(file)
    classes = _classes(name, arguments, state)
    model = build_backbone(name, arguments, num_classes=classes)
    load_matching(model, state, source=str(file), ignore=_PREDICTOR)
    size = input_size(model, arguments)
    contract = _contract(model.pretrained_cfg, size, settings.get("preprocess", {}))  # type: ignore[arg-type]
    info = CheckpointInfo(architecture=name, model_args=arguments, preprocess=contract, num_classes=classes)
    facts = {"file": file.name, "sha256": sha256_of(file), "layout": layout, "licence": licence or "unknown"}
    return save_checkpoint(out, model, info, provenance=[stage_record("convert", **facts)], overwrite=overwrite)


def _classes(name: str, arguments: Mapping[str, Any], state: Mapping[str, Tensor]) -> int:
    """Rows of the classifier that the state dict holds; 0 without one."""
    classifier = build_backbone(name, arguments).pretrained_cfg.get("classifier")  # type: ignore[operator,union-attr]
    first = classifier if isinstance(classifier, str) else (classifier or ("head",))[0]
    weight = state.get(f"{first}.weight")
    return 0 if weight is None else int(weight.shape[0])


def _contract(config: Mapping[str, Any], size: tuple[int, int], given: Mapping[str, Any]) -> Preprocess:
    values: dict[str, Any] = {
        "size": list(size),
        "crop_ratio": float(config.get("crop_pct") or 0.875),
        "interpolation": str(config.get("interpolation") or "bicubic"),
        "mean": list(config["mean"]),
        "std": list(config["std"]),
    }
    return build(Preprocess, {**values, **given}, "preprocess")
