"""How the batch of a step is divided over processes and passes."""

from __future__ import annotations

import pytest

from edgemim.errors import ConfigError
from edgemim.training.loop.parts import Parts


@pytest.mark.parametrize(("processes", "accumulate"), [(1, 1), (1, 4), (4, 1), (3, 2)])
def test_every_part_is_computed_by_one_process(processes: int, accumulate: int) -> None:
    shares = [Parts.of(rank=rank, processes=processes, accumulate=accumulate) for rank in range(processes)]
    assert [part for share in shares for part in share.mine] == list(range(processes * accumulate))
    assert {share.total for share in shares} == {processes * accumulate}


def test_a_process_goes_through_its_parts_in_each_step() -> None:
    parts = Parts.of(rank=1, processes=2, accumulate=3)
    assert [parts.of_batch(i) for i in range(7)] == [3, 4, 5, 3, 4, 5, 3]
    assert [parts.ends_step(i) for i in range(6)] == [False, False, True, False, False, True]


def test_parts_are_equal() -> None:
    assert Parts.of(rank=0, processes=2, accumulate=2).size(12) == 3
    with pytest.raises(ConfigError, match=r"batch_size 14 cannot be divided into 4 equal parts .* set --batch-size 12"):
        Parts.of(rank=0, processes=2, accumulate=2).size(14)
