"""One run without labels: `edgemim pretrain` and `edgemim distill`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn

from edgemim.data.open import Splits
from edgemim.errors import ConfigError
from edgemim.methods._base import Method
from edgemim.models.checkpoint import CheckpointInfo, finish_run
from edgemim.preprocess import Preprocess
from edgemim.training.assembly import Start, build_method, starting_point
from edgemim.training.features import outputs, patch_features, spread
from edgemim.training.feed.augmentation import Augmentation
from edgemim.training.feed.images import AugmentedImages, Raw
from edgemim.training.feed.inputs import Decodable, decoded
from edgemim.training.feed.opened import RunImages, open_run
from edgemim.training.loop.fit import check_batch, check_groups, check_state, fit
from edgemim.training.loop.processes import Team, processes
from edgemim.training.loop.seeding import seeded
from edgemim.training.probe import knn_top1, linear_top1
from edgemim.training.run import finished_before, finished_run, record, refuse_early, run_folder, teacher_record
from edgemim.training.saving.changes import accepted_changes
from edgemim.training.saving.signals import preemptible
from edgemim.training.settings.run import RunSettings
from edgemim.training.shown.drawing import DrawReconstructions
from edgemim.training.shown.knn import has_classes, knn_on_the_way
from edgemim.training.shown.say import say
from edgemim.training.teacher_cache.cached import CachedTeacher, cache_teacher, check_cacheable
from edgemim.training.untrained import neutralise

_PICTURES = 10
_SHOWN = 8


def pretrain(
    settings: RunSettings,
    out: Path,
    *,
    stage: str,
    resume: bool = False,
    overwrite: bool = False,
    accept_changes: bool = False,
) -> dict[str, Any]:
    """Train a backbone with a method and write its checkpoint folder; called by every process of a run.

    Args:
        settings: Of the run.
        out: Folder of the run; afterwards a checkpoint.
        stage: `pretrain` or `distill`, for the provenance.
        resume: Go on from the saved state.
        overwrite: Replace a folder that edgemim wrote.
        accept_changes: Go on with other settings than the run was started with.

    Returns:
        Where the checkpoint is and the numbers of the run, as `--json` prints them; nothing where this is not the
        first of several processes.

    Raises:
        EdgemimError: Any bad input, before `out` is touched; see `fit` for what may happen later.
    """
    with preemptible(), processes() as team:
        return _pretrain(
            settings, out, team, stage=stage, resume=resume, overwrite=overwrite, accept_changes=accept_changes
        )


def _pretrain(
    settings: RunSettings,
    out: Path,
    team: Team,
    *,
    stage: str,
    resume: bool,
    overwrite: bool,
    accept_changes: bool,
) -> dict[str, Any]:
    if team.first:
        refuse_early(out, resume=resume, overwrite=overwrite)
    found = open_run(settings)
    splits = found.splits
    with seeded(settings.seed):
        start = starting_point(settings)
        method = build_method(settings, start)
    if settings.cache_teacher:
        check_cacheable(method, settings)
    contract = start.contract
    data = found.fingerprint
    if resume and finished_before(out, settings, data, accept_changes=accept_changes, team=team):
        return finished_run(out, stage) if team.first else {}
    train = found.training(contract.size, settings, team.count)
    if method.remembers:
        _reserve(method, found, contract)
    known = found.known(contract.size, train)
    if _probes(splits, settings):
        decoded(splits.test, contract.size)  # a broken image is found before the run, not after it
    shown = _shown(splits, contract)
    check_batch(settings, len(train))
    check_groups(method, settings, team)
    if resume and accept_changes:
        check_state(out, method, settings, len(train), team)
    if method.experimental and team.first:
        say(f"{method.name()} is experimental: {method.experimental}")
    images = AugmentedImages(
        train,
        None,
        Augmentation(size=contract.size, settings=settings.augmentation, seed=settings.seed),
        crops=method.crops,
    )
    cached = CachedTeacher()
    if settings.cache_teacher:
        cached = cache_teacher(method, images, settings, contract, data=data, shown=shown, team=team)
    with run_folder(
        out,
        settings,
        data=data,
        resume=resume,
        overwrite=overwrite,
        accept_changes=accept_changes,
        team=team,
    ) as run:
        steps = settings.training.total_steps(len(images))
        fitted = fit(
            method,
            images,
            settings,
            contract,
            run=run,
            title=f"{stage} {settings.method['name']}",
            resume=resume,
            callbacks=[
                *_pictures(run, {"images": shown, **cached.shown}, contract, settings, steps, len(images)),
                *knn_on_the_way(method.backbone, splits, contract, settings, known, images=len(images)),
            ],
            team=team,
        )
        if not team.first:
            return {}
        neutral = [] if settings.init else neutralise(method.backbone, _of_backbone(fitted.untrained))
        method.backbone.to(fitted.device)  # Lightning leaves it on the CPU
        scores = probe(method.backbone, splits, contract, settings, known)
        facts = {
            "scores": scores,
            "teacher": teacher_record(method.teacher),
            "teacher_cache": cached.record,
            "init": settings.init or None,
            "neutralised": neutral,
            "changes": accepted_changes(run),
        }
        method.cpu()
        finish_run(
            run,
            method.backbone,
            _info(settings, start, stage, method),
            predictor=method.predictor_state(),
            provenance=[*start.provenance, record(stage, settings, found, fitted, **facts)],
        )
    return {
        "checkpoint": str(out),
        "stage": stage,
        "method": settings.method["name"],
        "steps": fitted.steps,
        "seconds": round(fitted.seconds, 2),
        "images_per_second": round(fitted.images_per_second, 1),
        "loss": fitted.loss,
        "data_wait": round(fitted.data_wait, 4),
        "untrained": list(fitted.untrained),
        **scores,
    }


def _reserve(method: Method, found: RunImages, contract: Preprocess) -> None:
    if found.stream is not None:
        raise ConfigError(
            f"method {method.name()!r} keeps something of each image and looks at all of them again and again, which a "
            "stream does not allow; give a data set that is here, or choose another method"
        )
    shown = {"data": found.fingerprint, "contract": contract.to_dict(), "grid": list(method.adapter.grid)}
    method.reserve(len(found), hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest())


def probe(
    model: nn.Module, splits: Splits, contract: Preprocess, settings: RunSettings, train: Decodable
) -> dict[str, float]:
    """k-NN and linear-probe accuracy of frozen features on the test images.

    Empty where a split has no labels, or all training images have the same one.
    """
    wanted = settings.evaluation.probe
    if not _probes(splits, settings):
        return {}
    rows = spread(len(train), settings.evaluation.max_images)
    forward = patch_features(model)
    labels = torch.as_tensor(splits.train.require_labels("k-NN")[rows.start : rows.stop : rows.step])
    test_labels = torch.as_tensor(splits.test.require_labels("k-NN"))
    features = outputs(forward, train, contract, rows)
    test = outputs(forward, decoded(splits.test, contract.size), contract)
    scores = {}
    if wanted in ("knn", "both"):
        scores["knn_top1"] = knn_top1(features, labels, test, test_labels)
    if wanted in ("linear", "both"):
        scores["linear_top1"] = linear_top1(features, labels, test, test_labels)
    return scores


def _probes(splits: Splits, settings: RunSettings) -> bool:
    return settings.evaluation.probe != "none" and has_classes(splits)


def _of_backbone(names: Iterable[str]) -> set[str]:
    """Names within the backbone, of those within the method."""
    return {n.removeprefix("model.") for n in names if n.startswith("model.")}


def _shown(splits: Splits, contract: Preprocess) -> torch.Tensor:
    """A few test images, uint8 [B, 3, H, W], to draw reconstructions of."""
    shown = [contract.pixels(splits.test.image(i)) for i in range(min(_SHOWN, len(splits.test)))]
    return torch.stack([torch.from_numpy(p.copy()).permute(2, 0, 1) for p in shown])


def _pictures(
    run: Path, shown: Raw, contract: Preprocess, settings: RunSettings, steps: int, count: int
) -> list[L.Callback]:
    training = settings.training
    every = training.picture_steps or max(1, steps // _PICTURES)
    if training.picture_epochs and not training.picture_steps:
        every = training.steps_of(training.picture_epochs, count)
    return [DrawReconstructions(run, shown, contract, every)]


def _info(settings: RunSettings, start: Start, stage: str, method: Method) -> CheckpointInfo:
    taught = method.teacher.class_names if method.num_classes and method.teacher is not None else None
    return CheckpointInfo(
        architecture=start.architecture,
        model_args=start.model_args,
        preprocess=start.contract,
        num_classes=method.num_classes,
        class_names=taught,
        stage=stage,
        method=settings.method["name"],
    )
