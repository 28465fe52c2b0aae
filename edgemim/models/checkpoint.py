"""Checkpoint folders: one `model.safetensors` and a timm `config.json`, in an artifact.

`timm.create_model("local-dir:PATH", pretrained=True)` loads the same folder. What a method throws away at
export (decoder, projectors) lies beside it in `predictor.safetensors`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edgemim.artifact import Artifact, create_artifact, load_artifact, seal, write_bytes, write_text, writing
from edgemim.errors import ArtifactError
from edgemim.models.build import build_backbone
from edgemim.models.weights import load_matching, read_state_dict
from edgemim.preprocess import Preprocess

MODEL, CONFIG, PREDICTOR = "model.safetensors", "config.json", "predictor.safetensors"


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What a checkpoint says about itself.

    Attributes:
        architecture: timm name.
        model_args: timm arguments that give the model its shape.
        preprocess: How an image becomes its input.
        num_classes: 0 without a head.
        class_names: One per class, where they are known.
        stage: pretrain, distill, finetune or convert.
        method: Name of the method, where one was used.
    """

    architecture: str
    model_args: Mapping[str, Any]
    preprocess: Preprocess
    num_classes: int = 0
    class_names: tuple[str, ...] | None = None
    stage: str = "convert"
    method: str | None = None


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A verified checkpoint and its model, in eval mode and float32."""

    artifact: Artifact
    model: nn.Module
    info: CheckpointInfo

    @property
    def architecture(self) -> str:
        return self.info.architecture

    @property
    def preprocess(self) -> Preprocess:
        return self.info.preprocess

    @property
    def num_classes(self) -> int:
        return self.info.num_classes

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return self.info.class_names

    def predictor(self) -> dict[str, Tensor]:
        """Tensors of what the method throws away (decoder, projectors); empty where there are none."""
        if PREDICTOR not in self.artifact.files:
            return {}
        return read_state_dict(self.artifact.file(PREDICTOR))


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Verify a checkpoint folder and load its model.

    Raises:
        ArtifactError: Not a checkpoint, incomplete or altered.
        CheckpointError: Its tensors do not fit its config.
    """
    artifact = load_artifact(path, "checkpoint")
    info = read_info(artifact)
    model = build_backbone(info.architecture, info.model_args, num_classes=info.num_classes)
    load_matching(model, read_state_dict(artifact.file(MODEL)), source=str(artifact.file(MODEL)))
    return Checkpoint(artifact=artifact, model=model.eval(), info=info)


def read_info(artifact: Artifact) -> CheckpointInfo:
    """What a verified checkpoint says about itself, without loading its weights."""
    config = json.loads(artifact.file(CONFIG).read_text("utf-8"))
    content = artifact.content
    try:
        names = content["class_names"]
        return CheckpointInfo(
            architecture=content["architecture"],
            model_args=config["model_args"],
            preprocess=Preprocess.from_dict(content["preprocess"]),
            num_classes=content["num_classes"],
            class_names=tuple(names) if names is not None else None,
            stage=content["stage"],
            method=content["method"],
        )
    except KeyError as error:
        raise ArtifactError(f"{artifact.path} lacks {error} in its manifest or config.json; write it again") from error


def save_checkpoint(
    out: Path,
    model: nn.Module,
    info: CheckpointInfo,
    *,
    predictor: Mapping[str, Tensor] | None = None,
    provenance: Sequence[Mapping[str, Any]] = (),
    overwrite: bool = False,
) -> Artifact:
    """Write a checkpoint folder, complete or not at all.

    Raises:
        OutputError: `out` exists or cannot be written.
    """
    with create_artifact(out, "checkpoint", overwrite=overwrite) as draft:
        _write_files(draft.folder, model, info, predictor)
        draft.content.update(_content(model, info))
        draft.provenance.extend(map(dict, provenance))
    return load_artifact(out, "checkpoint")


def finish_run(
    folder: Path,
    model: nn.Module,
    info: CheckpointInfo,
    *,
    predictor: Mapping[str, Tensor] | None = None,
    provenance: Sequence[Mapping[str, Any]] = (),
) -> Artifact:
    """Turn the folder of a training run into a checkpoint; its state and logs stay beside the artifact's files."""
    with writing(folder):
        names = _write_files(folder, model, info, predictor)
        seal(folder, "checkpoint", names, content=_content(model, info), provenance=provenance)
    return load_artifact(folder, "checkpoint")


def _write_files(
    folder: Path, model: nn.Module, info: CheckpointInfo, predictor: Mapping[str, Tensor] | None
) -> list[str]:
    write_bytes(folder / MODEL, _as_safetensors(model.state_dict()))
    write_text(folder / CONFIG, json.dumps(_timm_config(model, info), indent=2) + "\n")
    if not predictor:
        return [MODEL, CONFIG]
    write_bytes(folder / PREDICTOR, _as_safetensors(predictor))
    return [MODEL, CONFIG, PREDICTOR]


def _as_safetensors(tensors: Mapping[str, Tensor]) -> bytes:
    from safetensors.torch import save

    plain = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    return save(plain, metadata={"format": "pt"})


def _content(model: nn.Module, info: CheckpointInfo) -> dict[str, Any]:
    return {
        "architecture": info.architecture,
        "num_classes": info.num_classes,
        "class_names": list(info.class_names) if info.class_names is not None else None,
        "parameters": sum(p.numel() for p in model.parameters()),
        "preprocess": info.preprocess.to_dict(),
        "stage": info.stage,
        "method": info.method,
    }


def _timm_config(model: nn.Module, info: CheckpointInfo) -> dict[str, Any]:
    contract = info.preprocess
    config: dict[str, Any] = {
        "architecture": info.architecture,
        "num_classes": info.num_classes,
        "num_features": model.num_features,
        "model_args": dict(info.model_args),
        "pretrained_cfg": {
            "input_size": [3, *contract.size],
            "fixed_input_size": bool(model.pretrained_cfg.get("fixed_input_size")),  # type: ignore[operator,union-attr]
            "interpolation": contract.interpolation,
            "crop_pct": contract.crop_ratio,
            "crop_mode": "center",
            "mean": list(contract.mean),
            "std": list(contract.std),
            "num_classes": info.num_classes,
            "first_conv": model.pretrained_cfg.get("first_conv"),  # type: ignore[operator,union-attr]
            "classifier": model.pretrained_cfg.get("classifier"),  # type: ignore[operator,union-attr]
        },
    }
    if info.class_names is not None:
        config["label_names"] = list(info.class_names)
    return config
