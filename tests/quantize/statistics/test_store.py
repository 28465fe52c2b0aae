"""Statistics on disk: nothing is lost, equal ones have equal bytes, damage is refused."""

from __future__ import annotations

import numpy as np
import pytest

from edgemim.errors import ArtifactError, OutputError
from edgemim.quantize.statistics.observed import Observed
from edgemim.quantize.statistics.store import Statistics, load_statistics


@pytest.fixture
def statistics():
    rng = np.random.default_rng(0)
    kinds = {
        "whole": Observed.empty(channel_axis=-1),
        "bare": Observed.empty(histogram=False),
        "unseen": Observed.empty(channel_axis=1),
        "zeros": Observed.empty(),
    }
    kinds["whole"].add(rng.standard_normal((3, 7)).astype(np.float32))
    kinds["bare"].add(rng.random((5,)).astype(np.float32))
    kinds["zeros"].add(np.zeros(4, np.float32))
    return Statistics(observed=kinds, setup={"model": "abc", "tensors": [["whole", "x", -1, True]]}, images=("1", "2"))


def test_everything_comes_back(statistics, tmp_path):
    file = tmp_path / "new" / "statistics.npz"
    statistics.save(file)
    found = load_statistics(file)
    assert list(found) == list(statistics)
    assert (found.setup, found.images, found.notes) == (statistics.setup, ("1", "2"), ())
    for key, observed in statistics.items():
        other = found[key]
        assert (other.elements, other.maximum, other.negative) == (
            observed.elements,
            observed.maximum,
            observed.negative,
        )
        assert other.channel_axis == observed.channel_axis
        for a, b in ((other.counts, observed.counts), (other.channel_maximum, observed.channel_maximum)):
            assert (a is None) == (b is None)
            if b is not None:
                np.testing.assert_array_equal(a, b)
                assert a.dtype == b.dtype


def test_equal_statistics_have_equal_bytes(statistics, tmp_path):
    first, second = tmp_path / "first.npz", tmp_path / "second.npz"
    statistics.save(first)
    load_statistics(first).save(second)
    assert first.read_bytes() == second.read_bytes()


def test_what_was_read_can_learn_on(statistics, tmp_path):
    statistics.save(tmp_path / "statistics.npz")
    found = load_statistics(tmp_path / "statistics.npz")
    more = np.float32([[9] * 7])
    for entry in (found["whole"], statistics["whole"]):
        entry.add(more)
    np.testing.assert_array_equal(found["whole"].counts, statistics["whole"].counts)
    np.testing.assert_array_equal(found["whole"].channel_maximum, statistics["whole"].channel_maximum)


def test_a_file_that_holds_something_else_is_refused(statistics, tmp_path):
    file = tmp_path / "statistics.npz"
    with pytest.raises(ArtifactError, match="does not exist"):
        load_statistics(file)
    statistics.save(file)
    whole = file.read_bytes()
    np.savez(file, other=np.zeros(3))
    other = file.read_bytes()
    for content in (b"", b"not an archive", whole[: len(whole) // 2], whole.replace(b"abc", b"abd"), other):
        file.write_bytes(content)
        with pytest.raises(ArtifactError, match="holds no statistics"):
            load_statistics(file)


def test_a_place_that_cannot_be_written_is_one_line(statistics, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="a part of the path is a file; choose another place"):
        statistics.save(tmp_path / "file" / "statistics.npz")
