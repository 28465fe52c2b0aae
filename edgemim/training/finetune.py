"""A labelled run: `edgemim finetune`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from edgemim.data.images import Images
from edgemim.data.open import open_splits
from edgemim.errors import DataError
from edgemim.models.checkpoint import CheckpointInfo, finish_run, load_checkpoint
from edgemim.preprocess import Preprocess
from edgemim.training.classification import Classification, classifier_from
from edgemim.training.features import outputs
from edgemim.training.feed.augmentation import Augmentation
from edgemim.training.feed.images import AugmentedImages
from edgemim.training.feed.inputs import decoded, training_images
from edgemim.training.loop.fit import check_batch, check_state, fit
from edgemim.training.loop.processes import Team, processes
from edgemim.training.loop.seeding import seeded
from edgemim.training.run import finished_before, finished_run, record, refuse_early, run_folder
from edgemim.training.saving.changes import accepted_changes
from edgemim.training.saving.signals import preemptible
from edgemim.training.settings.run import RunSettings


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    """The head and what regularises it.

    Args:
        pool: `avg` or `token`.
        drop_path: Stochastic depth, in [0, 1).
        mixup, cutmix: Alphas; 0: off (right for tiny sets).
    """

    pool: str = "avg"
    drop_path: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(RunSettings):
    """A run's settings and the head's; `init` is the checkpoint."""

    head: HeadSettings = field(default_factory=HeadSettings)


def finetune(
    settings: FinetuneSettings,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    accept_changes: bool = False,
) -> dict[str, Any]:
    """Put a classification head on a checkpoint, train all of it, and write one; called by every process of a run.

    Args:
        settings: `settings.init` is the checkpoint, `settings.data` a labelled set.
        out: Folder of the run; afterwards a checkpoint.
        resume: Go on from the saved state.
        overwrite: Replace a folder that edgemim wrote.
        accept_changes: Go on with other settings than the run was started with.

    Returns:
        Where the checkpoint is, `top1` on the test images, and the numbers of the run; nothing where this is not the
        first of several processes.

    Raises:
        DataError: The data has no labels, or its splits have different ones.
    """
    with preemptible(), processes() as team:
        return _finetune(settings, out, team, resume=resume, overwrite=overwrite, accept_changes=accept_changes)


def _finetune(
    settings: FinetuneSettings, out: Path, team: Team, *, resume: bool, overwrite: bool, accept_changes: bool
) -> dict[str, Any]:
    if team.first:
        refuse_early(out, resume=resume, overwrite=overwrite)
    splits = open_splits(settings.data, seed=settings.seed)
    labels = splits.train.require_labels("finetune")
    test_labels = splits.test.require_labels("finetune")
    checkpoint = load_checkpoint(settings.init)
    classes = _classes(splits.train, splits.test)
    contract = checkpoint.preprocess
    with seeded(settings.seed):
        model, model_args = classifier_from(
            checkpoint, classes, pool=settings.head.pool, drop_path=settings.head.drop_path
        )
    data = splits.train.fingerprint
    if resume and finished_before(out, settings, data, accept_changes=accept_changes, team=team):
        return finished_run(out, "finetune") if team.first else {}
    train = training_images(splits.train, contract.size, max_unreadable=settings.training.max_unreadable)
    decoded(splits.test, contract.size)  # a broken image is found before the run, not after it
    check_batch(settings, len(train))
    images = AugmentedImages(
        train,
        labels,
        Augmentation(size=contract.size, settings=settings.augmentation, seed=settings.seed),
    )
    task = Classification(
        model,
        classes,
        label_smoothing=settings.training.label_smoothing,
        mixup=settings.head.mixup,
        cutmix=settings.head.cutmix,
    )
    if resume and accept_changes:
        check_state(out, task, settings, len(train), team)
    with run_folder(
        out,
        settings,
        data=data,
        resume=resume,
        overwrite=overwrite,
        accept_changes=accept_changes,
        team=team,
    ) as run:
        fitted = fit(task, images, settings, contract, run=run, title="finetune", resume=resume, team=team)
        if not team.first:
            return {}
        model.to(fitted.device)  # Lightning leaves it on the CPU
        top1 = measure_top1(model, splits.test, test_labels, contract)
        info = CheckpointInfo(
            architecture=checkpoint.architecture,
            model_args=model_args,
            preprocess=contract,
            num_classes=classes,
            class_names=_names(splits.train),
            stage="finetune",
            method=checkpoint.info.method,
        )
        facts = {"scores": {"top1": top1, "images": len(splits.test)}, "changes": accepted_changes(run)}
        stage = record("finetune", settings, splits.train, fitted, **facts)
        finish_run(run, model.cpu(), info, provenance=[*checkpoint.artifact.provenance, stage])
    return {
        "checkpoint": str(out),
        "stage": "finetune",
        "steps": fitted.steps,
        "seconds": round(fitted.seconds, 2),
        "images_per_second": round(fitted.images_per_second, 1),
        "loss": fitted.loss,
        "data_wait": round(fitted.data_wait, 4),
        "untrained": list(fitted.untrained),
        "top1": top1,
    }


def measure_top1(model: torch.nn.Module, images: Images, labels: Any, contract: Preprocess) -> float:
    """Share of images whose class the model names, through the evaluation transform."""
    training = model.training
    logits = outputs(model.eval(), decoded(images, contract.size), contract)
    model.train(training)
    return float((logits.argmax(dim=1) == torch.as_tensor(labels)).float().mean())


def _classes(train: Images, test: Images) -> int:
    counts = [c for c in (train.num_classes, test.num_classes) if c is not None]
    if not counts or max(counts) < 2:
        raise DataError(f"fine-tuning needs at least 2 classes; {train.name} has {max(counts, default=0)}")
    return max(counts)


def _names(images: Images) -> tuple[str, ...] | None:
    return tuple(images.class_names) if images.class_names else None
