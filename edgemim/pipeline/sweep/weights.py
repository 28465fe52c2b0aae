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
# Side of the cells of noise that an image is made of, in cells.
_CELLS = (2, 3, 5, 8, 16, 64)


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

    A fresh model hides much of itself behind equal biases, layer scales of 1e-5 and statistics of nothing; a graph may
    be stored, and run, differently then. So vectors are moved by noise, and batch norms get to see noise.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model, arguments = _build(combination)
        for parameter in model.parameters():
            if parameter.ndim <= 1 or not parameter.any():
                parameter.add_(_NOISE * torch.randn_like(parameter))
        _show(model, _images(combination.size))
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


def _images(size: tuple[int, int]) -> torch.Tensor:
    """Noise from coarse to fine, each with a colour of its own, float32 [6, 3, H, W].

    White noise looks the same to most models, and a batch norm would divide by what little differs.
    """
    images = []
    for cells in _CELLS:
        noise, colour = torch.randn(1, 3, cells, cells), 0.5 * torch.randn(1, 3, 1, 1)
        images.append(colour + nn.functional.interpolate(noise, size=size, mode="bilinear"))
    return torch.cat(images)


def _show(model: nn.Module, images: torch.Tensor) -> None:
    """Run it once, and give every batch norm the statistics of what reaches it.

    Raises:
        ConfigError: It does not run on images of that size.
    """
    for norm in [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches, which are one
        norm.train()
    try:
        model(images)
    except (AssertionError, RuntimeError, ValueError) as error:
        height, width = images.shape[2:]
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise ConfigError(f"{type(model).__name__} does not run on images of {height}x{width}: {reason}") from error
    model.eval()


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
