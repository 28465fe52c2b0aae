"""The decoded cache."""

import errno
import multiprocessing
import os
import pickle
import threading

import datasets
import numpy as np
import pytest

from edgemim.data.cache import Decoded, decode_cached, default_cache
from edgemim.data.images import Images
from edgemim.errors import ConfigError, DataError, OutputError


def _images(encoded):
    return Images(datasets.Dataset.from_dict({"image": encoded}), name="test set")


@pytest.fixture
def uniform(encode):
    return _images([encode(i) for i in range(150)])


@pytest.fixture
def ragged(encode):
    sizes = [(8, 6), (6, 8), (20, 10), (5, 5)]
    return _images([encode(i, sizes[i % 4]) for i in range(10)])


class _Counter:
    """Progress that remembers its calls."""

    def __init__(self):
        self.calls = []

    def __call__(self, done, total):
        self.calls.append((done, total))


def test_images_of_one_size_are_one_array(uniform, tmp_path):
    decoded = decode_cached(uniform, cache=tmp_path)
    assert len(decoded) == 150
    assert decoded.array.shape == (150, 6, 8, 3)
    assert decoded.array.dtype == np.uint8
    for i in (0, 70, 149):
        np.testing.assert_array_equal(decoded.get(i), np.asarray(uniform.image(i)))


def test_images_of_several_sizes_come_one_by_one(ragged, tmp_path):
    decoded = decode_cached(ragged, cache=tmp_path)
    assert decoded.array is None
    for i in range(10):
        np.testing.assert_array_equal(decoded.get(i), np.asarray(ragged.image(i)))
    np.testing.assert_array_equal(decoded.get(-1), decoded.get(9))
    with pytest.raises(IndexError):
        decoded.get(10)


def test_a_batch_keeps_the_order_asked_for_and_is_writable(uniform, ragged, tmp_path):
    batch = decode_cached(uniform, cache=tmp_path).batch([5, 2, 5])
    np.testing.assert_array_equal(batch, [np.asarray(uniform.image(i)) for i in (5, 2, 5)])
    assert batch.flags.writeable
    same_size = decode_cached(ragged, cache=tmp_path).batch(np.array([4, 0]))
    np.testing.assert_array_equal(same_size, [np.asarray(ragged.image(i)) for i in (4, 0)])


def test_a_batch_of_several_sizes_is_refused(ragged, tmp_path):
    with pytest.raises(ValueError, match="same shape"):
        decode_cached(ragged, cache=tmp_path).batch([0, 1])


def test_a_view_cannot_change_the_cache(uniform, tmp_path):
    with pytest.raises(ValueError, match="read-only"):
        decode_cached(uniform, cache=tmp_path).get(0)[:] = 0


def test_the_second_call_decodes_nothing(uniform, tmp_path):
    first, second = _Counter(), _Counter()
    decode_cached(uniform, cache=tmp_path, progress=first)
    decode_cached(uniform, cache=tmp_path, progress=second)
    assert first.calls[-1] == (150, 150)
    assert second.calls == []


def test_the_default_cache_is_the_users(uniform, private_caches):
    assert decode_cached(uniform).folder.parent == default_cache() == private_caches / "edgemim" / "decoded"


def test_large_images_are_reduced_and_small_ones_are_not(ragged, tmp_path):
    decoded = decode_cached(ragged, cache=tmp_path, shorter_side=6)
    # Widths and heights 8x6, 6x8, 20x10, 5x5; stored as height, width.
    assert decoded.shapes[:4].tolist() == [[6, 8], [8, 6], [6, 12], [5, 5]]
    expected = ragged.image(2).resize((12, 6), resample=3)
    np.testing.assert_array_equal(decoded.get(2), np.asarray(expected))
    assert decode_cached(ragged, cache=tmp_path).shapes[2].tolist() == [10, 20]


def test_a_shorter_side_below_one_is_refused(uniform, tmp_path):
    with pytest.raises(ConfigError, match="at least 1 pixel; got 0"):
        decode_cached(uniform, cache=tmp_path, shorter_side=0)


def test_a_changed_image_is_decoded_anew(fill, encode, tmp_path):
    paths = fill(tmp_path / "photos", 3)
    dataset = datasets.Dataset.from_dict({"image": [str(p) for p in paths]})
    before = decode_cached(Images(dataset, name="photos"), cache=tmp_path / "cache")
    paths[1].write_bytes(encode(99))
    after = decode_cached(Images(dataset, name="photos"), cache=tmp_path / "cache")
    assert before.folder != after.folder
    assert not np.array_equal(before.get(1), after.get(1))


@pytest.mark.parametrize(
    "harm",
    [
        lambda f: os.truncate(f / "pixels.u8", 100),
        lambda f: (f / "pixels.u8").unlink(),
        lambda f: os.truncate(f / "shapes.npy", 20),
        lambda f: (f / "shapes.npy").write_bytes((f / "shapes.npy").read_bytes()[:-1] + b"\1"),
        lambda f: (f / "index.json").write_text("{"),
        lambda f: (f / "index.json").write_text("[]"),
        lambda f: (f / "index.json").write_text((f / "index.json").read_text().replace('sha256": "', 'sha256": "0')),
    ],
    ids=["cut", "no pixels", "cut shapes", "other shapes", "no json", "other json", "other hash"],
)
def test_a_damaged_entry_is_made_again(uniform, tmp_path, harm):
    folder = decode_cached(uniform, cache=tmp_path).folder
    harm(folder)
    with pytest.raises(DataError, match=r"is (damaged|incomplete)"):
        Decoded(folder)
    again = decode_cached(uniform, cache=tmp_path)
    np.testing.assert_array_equal(again.get(149), np.asarray(uniform.image(149)))


def test_what_a_killed_run_left_is_removed(uniform, tmp_path):
    folder = decode_cached(uniform, cache=tmp_path).folder
    folder.rename(folder.with_suffix(".partial"))
    (folder.with_suffix(".partial") / "pixels.u8").write_bytes(b"half")
    assert decode_cached(uniform, cache=tmp_path).array.shape == (150, 6, 8, 3)
    assert not folder.with_suffix(".partial").exists()


def test_a_pickled_cache_maps_the_same_file(ragged, tmp_path):
    decoded = decode_cached(ragged, cache=tmp_path)
    data = pickle.dumps(decoded)
    assert len(data) < 1000
    np.testing.assert_array_equal(pickle.loads(data).get(7), decoded.get(7))


def test_a_spawned_worker_reads_the_cache(uniform, tmp_path):
    decoded = decode_cached(uniform, cache=tmp_path)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(decoded.get, (3,)), decoded.get(3))


def test_two_writers_at_once_decode_once(uniform, tmp_path):
    counters = [_Counter(), _Counter()]
    threads = [
        threading.Thread(target=decode_cached, args=(uniform,), kwargs={"cache": tmp_path, "progress": c})
        for c in counters
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(c.calls) > 0 for c in counters) == [False, True]


def test_an_image_that_cannot_be_decoded_is_named_and_leaves_nothing(encode, tmp_path):
    images = _images([*(encode(i) for i in range(80)), b"no image"])
    with pytest.raises(DataError, match="image 80 of test set is not an image") as caught:
        decode_cached(images, cache=tmp_path)
    assert "\n" not in str(caught.value)
    assert [f.suffix for f in tmp_path.iterdir()] == [".lock"]


def test_an_empty_selection_is_refused(uniform, tmp_path):
    with pytest.raises(DataError, match="test set has no images"):
        decode_cached(uniform.select([]), cache=tmp_path)


def test_a_full_disk_is_one_line_and_leaves_nothing(uniform, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="the disk is full; free some space"):
        decode_cached(uniform, cache=tmp_path)
    assert [f.suffix for f in tmp_path.iterdir()] == [".lock"]


def test_a_cache_below_a_file_is_refused(uniform, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="a part of the path is a file"):
        decode_cached(uniform, cache=tmp_path / "file" / "cache")


@pytest.fixture
def holed(encode):
    return _images([b"no image", *(encode(i) for i in range(80)), b"cut off", encode(80)])


class _Skipped(list):
    """Remembers what was skipped."""

    def __call__(self, index, error):
        self.append((index, str(error)))


def test_an_image_that_cannot_be_decoded_may_be_skipped(holed, tmp_path):
    skipped = _Skipped()
    decoded = decode_cached(holed, cache=tmp_path, skip=skipped)
    assert [i for i, _ in skipped] == [0, 81]
    assert skipped[1][1].startswith("image 81 of test set is not an image that can be read")
    assert len(decoded) == 83
    assert decoded.array.shape == (81, 6, 8, 3)
    assert decoded.get(0).shape == decoded.get(81).shape == (0, 0, 3)
    for i in (1, 40, 80, 82):
        np.testing.assert_array_equal(decoded.get(i), np.asarray(holed.image(i)))
    np.testing.assert_array_equal(decoded.batch([82, 1]), [decoded.get(82), decoded.get(1)])


def test_an_entry_tells_what_was_skipped_whenever_it_is_opened(holed, tmp_path):
    first, second = _Skipped(), _Skipped()
    decode_cached(holed, cache=tmp_path, skip=first)
    counter = _Counter()
    decode_cached(holed, cache=tmp_path, skip=second, progress=counter)
    assert counter.calls == []
    assert [i for i, _ in first] == [i for i, _ in second]
    with pytest.raises(DataError, match="image 0 of test set is not an image"):
        decode_cached(holed, cache=tmp_path)


def test_skipping_can_be_refused_and_leaves_nothing(holed, tmp_path):
    def refuse(index, error):
        if index:
            raise DataError("too many")

    with pytest.raises(DataError, match="too many"):
        decode_cached(holed, cache=tmp_path, skip=refuse)
    assert [f.suffix for f in tmp_path.iterdir()] == [".lock"]


def test_a_set_without_one_image_is_refused(tmp_path):
    with pytest.raises(DataError, match="no image of test set can be decoded; give another data set"):
        decode_cached(_images([b"no", b"image"]), cache=tmp_path, skip=_Skipped())
