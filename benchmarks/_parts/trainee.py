"""A training step in its three parts, whoever wrote it, and how long they take."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

PARTS = ("forward", "backward", "update")


class Trainee(ABC):
    """A network with its optimiser; `images` are float32 [B, 3, H, W], normalised, on its device."""

    device: torch.device

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """The loss."""

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Its gradients."""

    @abstractmethod
    def update(self) -> None:
        """The optimiser, and the gradients thrown away."""

    @abstractmethod
    def forget(self) -> None:
        """Throw away what a step that failed has left."""

    def turn(self) -> AbstractContextManager[None]:
        """What its training loop does to the process while it runs."""
        return nullcontext()

    def step(self, images: Tensor) -> Tensor:
        """All of it."""
        loss = self.forward(images)
        self.backward(loss)
        self.update()
        return loss.detach()


def seconds_in_turn(
    trainees: Mapping[str, Trainee], images: Mapping[str, Tensor], *, rounds: int, steps: int
) -> dict[str, list[float]]:
    """Seconds of a step of each, by round: `steps` of one, then of the next.

    Each turn begins with a step that is not timed, since memory changes hands between turns. Nothing waits for the
    device within the other steps but what an implementation itself waits for.
    """
    seconds: dict[str, list[float]] = {name: [] for name in trainees}
    for _ in range(rounds):
        for name, trainee in trainees.items():
            _make_room(trainee.device)
            with trainee.turn():
                trainee.step(images[name])
                _wait(trainee.device)
                began = time.perf_counter()
                for _ in range(steps):
                    trainee.step(images[name])
                _wait(trainee.device)
                seconds[name].append((time.perf_counter() - began) / steps)
    return seconds


def parts_ms(trainee: Trainee, images: Tensor, *, steps: int) -> dict[str, float]:
    """Median milliseconds of each part of a step, with a wait for the device after each."""
    taken: dict[str, list[float]] = {part: [] for part in PARTS}
    with trainee.turn():
        trainee.step(images)
        for _ in range(steps):
            for part, seconds in zip(PARTS, _seconds_of_parts(trainee, images), strict=True):
                taken[part].append(1000 * seconds)
    return {part: round(statistics.median(values), 2) for part, values in taken.items()}


def _seconds_of_parts(trainee: Trainee, images: Tensor) -> list[float]:
    marks = [_now(trainee.device)]
    loss = trainee.forward(images)
    marks.append(_now(trainee.device))
    trainee.backward(loss)
    marks.append(_now(trainee.device))
    trainee.update()
    marks.append(_now(trainee.device))
    return [end - begin for begin, end in itertools.pairwise(marks)]


def flops_of_a_step(trainee: Trainee, images: Tensor) -> int:
    """Multiplications and additions of the matrix products and the attention of one step."""
    with FlopCounterMode(display=False) as counter:
        trainee.step(images)
    return int(counter.get_total_flops())


def largest_batch(trainee: Trainee, make_images: Callable[[int], Tensor], *, least: int = 16) -> int:
    """The largest batch of the form 2 ** n or 1.5 * 2 ** n that a GPU has the memory for."""
    fits, batch = 0, least
    while _fits(trainee, make_images, batch):
        fits = batch
        batch = batch * 3 // 2 if math.log2(batch).is_integer() else batch * 4 // 3
    if not fits:
        raise SystemExit(f"not even a batch of {least} fits; give --batch-size")
    return fits


def _fits(trainee: Trainee, make_images: Callable[[int], Tensor], batch: int) -> bool:
    try:
        trainee.step(make_images(batch))
    except torch.OutOfMemoryError:
        return False
    finally:
        trainee.forget()
        _make_room(trainee.device)
    return True


def _now(device: torch.device) -> float:
    _wait(device)
    return time.perf_counter()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _make_room(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
