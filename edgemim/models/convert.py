"""State dicts of public layouts as checkpoint folders, and back."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgemim.artifact import Artifact, refuse_existing, sha256_of, stage_record, write_bytes, writing
from edgemim.config import build
from edgemim.errors import ConfigError, OutputError
from edgemim.models.build import input_size
from edgemim.models.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint
from edgemim.models.layouts import LAYOUTS
from edgemim.models.layouts._base import Asked, Layout, Reading
from edgemim.models.weights import read_state_dict
from edgemim.preprocess import Preprocess
from edgemim.registry import did_you_mean

_SUFFIXES = (".pth", ".safetensors")
_TABLES = ("backbone", "preprocess", "method")


def convert_file(
    file: Path,
    out: Path,
    *,
    layout: str,
    settings: Mapping[str, Any],
    licence: str | None = None,
    overwrite: bool = False,
) -> Artifact:
    """Write a checkpoint folder from a state dict of a public layout.

    The number of classes is that of the file's own head. What a method throws away (mask token, decoder,
    projectors) goes into the folder's predictor, by the names that our methods give it.

    Args:
        file: A `.pth` or `.safetensors` file; never unpickled.
        out: The checkpoint folder.
        layout: Name of a plug-in of `edgemim.models.layouts`.
        settings: `backbone` (name and timm arguments; what the tensors tell can be left out), and optionally
            `preprocess` (over the layout's contract) and `method.decoder_heads`.
        licence: Of the weights, for the provenance.
        overwrite: Replace a folder that edgemim wrote.

    Raises:
        ConfigError: Unknown layout or setting, or the file does not say what it is.
        CheckpointError: The file is damaged, holds code, or is not of this layout.
    """
    plugin = _layout(layout, "--from")
    asked = _asked(file, plugin, layout, settings)
    refuse_existing(out, overwrite=overwrite)
    reading = plugin.read(read_state_dict(file), asked)
    contract = _contract(reading, settings.get("preprocess", {}))
    info = CheckpointInfo(
        architecture=reading.architecture,
        model_args=reading.arguments,
        preprocess=contract,
        num_classes=reading.num_classes,
    )
    facts = {"file": file.name, "sha256": sha256_of(file), "layout": layout, "licence": licence or "unknown"}
    record = stage_record("convert", **facts, **reading.facts)
    return save_checkpoint(
        out, reading.model, info, predictor=reading.predictor, provenance=[record], overwrite=overwrite
    )


def convert_folder(folder: Path, out: Path, *, layout: str, overwrite: bool = False) -> dict[str, Any]:
    """Write a state dict of a public layout from a checkpoint folder, complete or not at all.

    Args:
        folder: The checkpoint.
        out: A `.pth` file, in which the tensors lie where the layout's authors put them, or a `.safetensors` file.
        layout: Name of a plug-in of `edgemim.models.layouts`.
        overwrite: Replace a file.

    Returns:
        The file, its layout, its number of tensors, and the names of the predictor that it has no place for.

    Raises:
        ArtifactError: The folder is no checkpoint.
        CheckpointError: The layout cannot hold it.
        ConfigError: Unknown layout, or a file name of another kind.
        OutputError: The file exists, or cannot be written.
    """
    plugin = _layout(layout, "--to")
    if out.suffix not in _SUFFIXES:
        raise ConfigError(f"--out {out} must end in {' or '.join(_SUFFIXES)}")
    _refuse_file(out, folder, overwrite=overwrite)
    checkpoint = load_checkpoint(folder)
    written = plugin.write(checkpoint)
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in written.tensors.items()}
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(out, _as_bytes(tensors, out.suffix, nested=plugin.nested))
    left_out = [name for name in checkpoint.predictor() if name not in written.predictor]
    return {"file": str(out), "layout": layout, "tensors": len(tensors), "left_out": sorted(left_out)}


def _layout(name: str, option: str) -> Layout:
    if name not in LAYOUTS.names():
        raise ConfigError(f"unknown layout {name!r} for {option}{did_you_mean(name, LAYOUTS.names())}")
    layout: Layout = LAYOUTS.get(name)()
    return layout


def _asked(file: Path, plugin: Layout, layout: str, settings: Mapping[str, Any]) -> Asked:
    for name, values in settings.items():
        if name not in _TABLES:
            raise ConfigError(f"unknown setting {name!r}{did_you_mean(name, _TABLES)}")
        if not isinstance(values, Mapping):
            raise ConfigError(f"setting {name!r} is a table; got {values!r}")
    known = ("decoder_heads",) if plugin.has_decoder else ()
    method = dict(settings.get("method", {}))
    for name in method:
        if name not in known:
            hint = did_you_mean(name, known) if known else f"; files of the layout {layout!r} have no decoder"
            raise ConfigError(f"unknown setting 'method.{name}'{hint}")
    heads = method.get("decoder_heads")
    if heads is not None and (type(heads) is not int or heads < 1):
        raise ConfigError(f"method.decoder_heads must be a whole number of at least 1; got {heads!r}")
    arguments = dict(settings.get("backbone", {}))
    name = str(arguments.pop("name", "") or "")
    return Asked(source=str(file), backbone=name, arguments=arguments, decoder_heads=heads)


def _contract(reading: Reading, given: Mapping[str, Any]) -> Preprocess:
    model: Any = reading.model
    config: Mapping[str, Any] = model.pretrained_cfg
    values: dict[str, Any] = {
        "size": list(input_size(model, reading.arguments)),
        "crop_ratio": float(config.get("crop_pct") or 0.875),
        "interpolation": str(config.get("interpolation") or "bicubic"),
        "mean": list(config["mean"]),
        "std": list(config["std"]),
    }
    return build(Preprocess, {**values, **reading.contract, **given}, "preprocess")


def _refuse_file(out: Path, folder: Path, *, overwrite: bool) -> None:
    """Refuse a file that exists, or one inside of what is read.

    Raises:
        OutputError: See above.
    """
    if out.resolve().is_relative_to(folder.resolve()):
        raise OutputError(f"--out {out} lies in {folder}, which this command reads; choose another --out")
    if out.is_dir():
        raise OutputError(f"--out {out} is a folder; choose another name for the file")
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists; choose another --out, or replace it with --overwrite")


def _as_bytes(tensors: Mapping[str, Tensor], suffix: str, *, nested: bool) -> bytes:
    if suffix == ".safetensors":
        from safetensors.torch import save

        return save(dict(tensors), metadata={"format": "pt"})
    stream = io.BytesIO()
    torch.save({"model": dict(tensors)} if nested else dict(tensors), stream)
    return stream.getvalue()
