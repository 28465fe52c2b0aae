"""Seeds leave the caller's random numbers alone."""

from __future__ import annotations

import torch

from edgemim.training.loop.seeding import seeded, step_seed


def test_a_seeded_block_repeats_itself_and_leaves_the_generator_as_it_was() -> None:
    before = torch.random.get_rng_state()
    with seeded(3):
        first = torch.rand(4)
    with seeded(3):
        second = torch.rand(4)
    with seeded(4):
        other = torch.rand(4)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_every_seed_rank_and_step_has_a_seed_of_its_own() -> None:
    seeds = {step_seed(seed, rank, step) for seed in range(5) for rank in range(5) for step in range(5)}
    assert len(seeds) == 125
    assert all(0 <= seed < 2**63 for seed in seeds)
