"""Work on many images by several threads."""

from __future__ import annotations

import threading
import time

import pytest

from edgemim.quantize.statistics.in_order import in_order, usual_workers


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_come_in_order_whoever_is_done_first(workers):
    def work(position):
        time.sleep(0.002 * (position % 3))
        return position * position

    assert list(in_order(work, range(20), workers)) == [i * i for i in range(20)]


def test_no_more_results_wait_than_there_are_workers():
    begun, most = [], []
    for _ in in_order(lambda position: begun.append(position), range(30), 3):
        time.sleep(0.002)
        most.append(len(begun) - len(most))
    # Three beside the one that is looked at.
    assert max(most) <= 3 + 1


@pytest.mark.parametrize("workers", [1, 3])
def test_a_failure_comes_out_and_ends_the_work(workers):
    def work(position):
        if position == 4:
            raise ValueError("image 4")
        return position

    results = in_order(work, range(1000), workers)
    assert [next(results) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="image 4"):
        next(results)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("edgemim-calibration")]


def test_large_activations_take_fewer_workers():
    assert usual_workers(1) >= usual_workers(1 << 29) == usual_workers(1 << 40) == 1
