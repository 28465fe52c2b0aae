"""The weights that a combination is exported with, as a checkpoint folder."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgemim.artifact import stage_record
from edgemim.errors import ConfigError
from edgemim.models.adapters import adapt
from edgemim.models.build import build_backbone
from edgemim.models.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint
from edgemim.pipeline.sweep.combinations import Combination
from edgemim.preprocess import Preprocess

_NOISE = 0.1


def weights_of(combination: Combination, folder: Path) -> Path:
    """A checkpoint of the combination's model at its size: the user's own, or one written to `folder`.

    Raises:
        ConfigError: The model does not take images of that size.
    """
    if combination.checkpoint is not None and combination.size == combination.own_size:
        return combination.checkpoint
    shutil.rmtree(folder, ignore_errors=True)
    if combination.checkpoint is None:
        _write_random(combination, folder)
    else:
        _write_resized(combination, combination.checkpoint, folder)
    return folder


def _write_random(combination: Combination, folder: Path) -> None:
    """Random weights, the same each time.

    A fresh model has layer scales of 1e-5 and biases that are all zero; a graph may be stored, and run, differently
    then. So vectors are moved by noise. Batch norms keep mean 0 and variance 1: real statistics of noise are so narrow
    that deep models would amplify every rounding until fp32 itself is refused as wrong.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model, arguments = _build(combination)
        for parameter in model.parameters():
            if parameter.ndim <= 1 or not parameter.any():
                parameter.add_(_NOISE * torch.randn_like(parameter))
        _check_size(model, combination.size)
    info = CheckpointInfo(
        architecture=combination.architecture,
        model_args=arguments,
        preprocess=Preprocess(size=combination.size, crop_ratio=1.0),
    )
    save_checkpoint(folder, model, info, provenance=[stage_record("random weights", seed=0)])


def _build(combination: Combination) -> tuple[nn.Module, dict[str, Any]]:
    """The backbone at the combination's size, and the arguments that rebuild it."""
    if combination.size == combination.own_size:
        return build_backbone(combination.architecture).eval(), {}
    arguments = {"img_size": list(combination.size)}
    try:
        return build_backbone(combination.architecture, arguments).eval(), arguments
    except ConfigError:
        model = build_backbone(combination.architecture).eval()
        if _is_fixed(model):
            raise
        return model, {}


def _check_size(model: nn.Module, size: tuple[int, int]) -> None:
    """Refuse a size that the model does not run on.

    Raises:
        ConfigError: It says why.
    """
    try:
        model(torch.zeros(1, 3, *size))
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise ConfigError(f"{type(model).__name__} does not run on images of {size[0]}x{size[1]}: {reason}") from error


def _write_resized(combination: Combination, source: Path, folder: Path) -> None:
    """The checkpoint for images of another size: a convnet as it is, a transformer with its positions resampled."""
    checkpoint = load_checkpoint(source)
    model = adapt(checkpoint.model, combination.own_size).resize(combination.size).backbone.eval()
    arguments = dict(checkpoint.info.model_args)
    if _is_fixed(model):
        arguments["img_size"] = list(combination.size)
    info = replace(
        checkpoint.info,
        model_args=arguments,
        preprocess=replace(checkpoint.preprocess, size=combination.size),
    )
    sizes = {"from_size": list(combination.own_size), "to_size": list(combination.size)}
    provenance = [*checkpoint.artifact.provenance, stage_record("resize", **sizes)]
    save_checkpoint(folder, model, info, provenance=provenance)


def _is_fixed(model: nn.Module) -> bool:
    """Whether the model is built for one input size."""
    return bool(model.pretrained_cfg.get("fixed_input_size"))  # type: ignore[operator,union-attr]
