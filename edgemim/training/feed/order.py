"""In which order images are seen: a pure function of the seed, so that a resumed run sees the same ones.

Position p of a run shows image `order(seed, p // N)[p % N]` of a set of N: every image exactly once per epoch,
also where a batch spans two epochs.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from edgemim.training.loop.parts import Parts

Place = tuple[int, int]


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, images: int) -> npt.NDArray[np.int64]:
    """The permutation of `images` indices in one epoch."""
    return np.random.default_rng((seed, epoch)).permutation(images)


class BatchOrder:
    """This process's parts of the batches, as (epoch, index) places, from `start_step` to the end of the run.

    Its length is that of the whole run, whatever `start_step` is: Lightning counts a resumed run from there.

    Args:
        images: Size of the set.
        batch_size: Places per batch, of all parts together.
        steps: Batches of the whole run.
        seed: Of the order.
        start_step: Batches that were already done.
        parts: Which of them this process computes.

    Raises:
        ConfigError: The batch cannot be divided into that many parts.
    """

    def __init__(
        self, *, images: int, batch_size: int, steps: int, seed: int, start_step: int = 0, parts: Parts | None = None
    ) -> None:
        self.images = images
        self.batch_size = batch_size
        self.steps = steps
        self.seed = seed
        self.start_step = start_step
        self.parts = parts or Parts()
        self.part_size = self.parts.size(batch_size)

    def __len__(self) -> int:
        return self.steps * len(self.parts.mine)

    def __iter__(self) -> Iterator[list[Place]]:
        for step in range(self.start_step, self.steps):
            for part in self.parts.mine:
                first = step * self.batch_size + part * self.part_size
                yield [self.place(position) for position in range(first, first + self.part_size)]

    def place(self, position: int) -> Place:
        """Epoch and image index of a position in the run."""
        epoch, offset = divmod(position, self.images)
        return epoch, int(epoch_order(self.seed, epoch, self.images)[offset])
