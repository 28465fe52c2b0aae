"""From settings to the objects of a run without labels: backbone, masking, teacher, method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from edgemim.config import build
from edgemim.errors import ConfigError
from edgemim.masking import MASKINGS
from edgemim.masking._base import MaskingStrategy
from edgemim.methods import METHODS
from edgemim.methods._base import Method
from edgemim.models.adapters import adapt
from edgemim.models.build import build_backbone, classifiers, input_size
from edgemim.models.checkpoint import load_checkpoint
from edgemim.models.teachers import Teacher, load_teacher
from edgemim.models.weights import load_matching
from edgemim.preprocess import Preprocess
from edgemim.training.loop.seeding import seeded
from edgemim.training.settings.run import RunSettings

_HEAD = ("head.", "fc_norm.", "head_dist.")


@dataclass(frozen=True, kw_only=True)
class Start:
    """A backbone to train, and what its checkpoint will say.

    Attributes:
        model: The timm model, with the weights that it starts from if those are given.
        architecture, model_args: By which timm builds it.
        contract: Of its images.
        provenance: Of the checkpoint that it comes from.
        predictor: What that checkpoint's method had thrown away.
    """

    model: nn.Module
    architecture: str
    model_args: Mapping[str, Any]
    contract: Preprocess
    provenance: tuple[Mapping[str, Any], ...] = ()
    predictor: Mapping[str, torch.Tensor] = field(default_factory=dict)


def make_method(settings: RunSettings) -> Method:
    """The method of a run as its first step finds it, with all weights that the settings name; nothing is trained.

    Raises:
        EdgemimError: Whatever a run with these settings would be refused for.
    """
    with seeded(settings.seed):
        return build_method(settings, starting_point(settings))


def build_method(settings: RunSettings, start: Start) -> Method:
    """Method, masking and teacher as the settings name them.

    A fresh backbone gets its initial weights here. One that goes on from `settings.init` keeps its own, and the
    method takes up what that checkpoint's method had thrown away (a decoder), as far as it fits.

    Args:
        settings: Of the run.
        start: The backbone.
    """
    names = dict(settings.method)
    cls = METHODS.get(str(names.pop("name", "")))
    own = build(cls.Settings, names, "method")
    adapter = adapt(start.model, start.contract.size)
    cls.check_student(adapter)  # before the masking, which would find fault with a grid that is no concern of it
    if settings.init:
        adapter.keep_computed()
    else:
        adapter.initialise()
    masking = _masking(settings, cls)
    if cls.masks:
        fewest = cls.fewest_masked(own)
        masking.check(adapter.grid, adapter.patch_size, fewest=fewest)  # refuses a grid before the run has a folder
    method: Method = cls(adapter, masking, own, _teacher(settings, cls, start.contract))
    method.normalised_by(start.contract)
    method.load_predictor(start.predictor)
    return method


def _masking(settings: RunSettings, method: type[Method]) -> MaskingStrategy:
    if settings.masking and not method.masks:
        raise ConfigError(f"method {method.name()!r} hides nothing; leave the masking settings out")
    values = dict(settings.masking)
    masking: MaskingStrategy = build(
        MASKINGS.get(str(values.pop("name", method.only_masking or "random"))), values, "masking"
    )
    return masking


def starting_point(settings: RunSettings) -> Start:
    """The backbone that a run starts with: of the checkpoint `settings.init`, or with fresh weights.

    Raises:
        ConfigError: None is named, or not the checkpoint's, or it does not take the size that is asked for.
        ArtifactError, CheckpointError: The checkpoint cannot be read.
    """
    arguments = dict(settings.backbone)
    name = str(arguments.pop("name", ""))
    if not settings.init:
        if not name:
            raise ConfigError("no backbone was named; give one with --backbone (edgemim list backbones)")
        model = build_backbone(name, arguments)
        contract = settings.preprocess.at(_size(settings, model, input_size(model, arguments)))
        return Start(model=model, architecture=name, model_args=arguments, contract=contract)
    checkpoint = load_checkpoint(settings.init)
    info = checkpoint.info
    if name not in ("", info.architecture):
        raise ConfigError(f"--init {settings.init} holds a {info.architecture}, --backbone says {name}; leave one out")
    model_args = {**info.model_args, **arguments}
    model = build_backbone(info.architecture, model_args)
    load_matching(model, checkpoint.model.state_dict(), source=settings.init, ignore=(*_HEAD, *classifiers(model)))
    own = input_size(model, model_args) if _has_size(model) else info.preprocess.size
    return Start(
        model=model,
        architecture=info.architecture,
        model_args=model_args,
        contract=settings.preprocess.at(_size(settings, model, own)),
        provenance=tuple(checkpoint.artifact.provenance),
        predictor=checkpoint.predictor(),
    )


def _has_size(model: nn.Module) -> bool:
    """Whether the model is built for images of one size."""
    return hasattr(getattr(model, "patch_embed", None), "img_size")


def _size(settings: RunSettings, model: nn.Module, own: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the images: the backbone's own, or those asked for where it takes any."""
    wanted = settings.preprocess.size
    if not wanted or (wanted, wanted) == own:
        return own
    if _has_size(model):
        # A backbone of another kind than the method's would be the greater mistake.
        METHODS.get(str(settings.method.get("name", ""))).check_student(adapt(model))
        raise ConfigError(
            f"preprocess.size {wanted} is not the {own[0]}x{own[1]} of the backbone; set backbone.img_size instead"
        )
    return wanted, wanted


def _teacher(settings: RunSettings, method: type[Method], contract: Preprocess) -> Teacher | None:
    source = str(settings.teacher.get("source", ""))
    if not method.needs_teacher:
        if source:
            raise ConfigError(f"method {method.name()!r} learns without a teacher; leave --teacher out")
        return None
    if not source:
        raise ConfigError(f"method {method.name()!r} learns from a teacher; {method.teacher_hint}")
    return load_teacher(source, settings.teacher, student=contract, with_head=method.teacher_head)
