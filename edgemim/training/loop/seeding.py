"""Seeds: every random number of a run is a function of (seed, part of the batch, step) or (seed, epoch, image)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's CPU generator seeded inside the block, for initial weights, and as it was afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def step_seed(seed: int, part: int, step: int) -> int:
    """A 63-bit seed that differs for every (seed, part, step)."""
    return int(np.random.SeedSequence((seed, part, step)).generate_state(1, np.uint64)[0] >> 1)
