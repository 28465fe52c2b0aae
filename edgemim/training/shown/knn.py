"""k-NN accuracy of the backbone as a run goes on: whether what it learns is of use, long before it ends."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import lightning as L
import torch
from torch import nn

from edgemim.data.open import Splits
from edgemim.preprocess import Preprocess
from edgemim.training.features import outputs, patch_features, spread
from edgemim.training.feed.inputs import Decodable, decoded
from edgemim.training.loop.averaging import WeightAverage
from edgemim.training.loop.module import TrainingModule
from edgemim.training.loop.parts import ends_step
from edgemim.training.probe import knn_top1
from edgemim.training.settings.run import RunSettings
from edgemim.training.shown.say import say

NAME = "knn_top1"


class MeasureKnn(L.Callback):
    """Measures what would ship if the run ended now, logs it, and lets it decide which state is the best.

    Args:
        measure: Gives the accuracy of the weights as they are, in [0, 1].
        every: Steps between two measurements.
    """

    def __init__(self, measure: Callable[[], float], every: int) -> None:
        self.measure = measure
        self.every = every

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        pl_module.measures = True

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if not ends_step(trainer, batch_idx) or step % self.every:
            return
        assert isinstance(pl_module, TrainingModule)
        average = WeightAverage.of(trainer)
        # The first process measures; all have to know, since they decide together what is saved.
        with average.within(pl_module) if average is not None else nullcontext():
            top1 = pl_module.team.of_first(self.measure)
        pl_module.measured = {step: top1}
        for logger in trainer.loggers:
            logger.log_metrics({NAME: top1}, step=step)


def knn_on_the_way(
    backbone: nn.Module, splits: Splits, contract: Preprocess, settings: RunSettings, known: Decodable, *, images: int
) -> list[L.Callback]:
    """The callback that `evaluation.every` asks for, if it does.

    Args:
        backbone: That is being trained.
        splits: Whose labels are known, and whose test images are held out.
        contract: Of the images.
        settings: Of the run; `evaluation.max_images` caps both sides.
        known: The images of `splits.train`.
        images: That an epoch has.
    """
    evaluation = settings.evaluation
    if not evaluation.every:
        return []
    if not has_classes(splits):
        say("evaluation.every is set, but there are no labels to measure with: nothing is measured on the way")
        return []
    test = decoded(splits.test, contract.size)
    rows, test_rows = spread(len(known), evaluation.max_images), spread(len(test), evaluation.max_images)
    labels, test_labels = _labels(splits.train.labels, rows), _labels(splits.test.labels, test_rows)

    def measure() -> float:
        training = backbone.training
        forward = patch_features(backbone)
        features, asked = outputs(forward, known, contract, rows), outputs(forward, test, contract, test_rows)
        backbone.train(training)
        return knn_top1(features, labels, asked, test_labels)

    return [MeasureKnn(measure, settings.training.steps_of(evaluation.every, images))]


def has_classes(splits: Splits) -> bool:
    """Whether both splits have labels, and the training images more than one."""
    labels = splits.train.labels
    return labels is not None and splits.test.labels is not None and bool((labels != labels[0]).any())


def _labels(labels: Any, rows: range) -> torch.Tensor:
    return torch.as_tensor(labels[rows.start : rows.stop : rows.step])
