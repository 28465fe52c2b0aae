"""Images that cannot be read: replaced by the next one, named once, refused where they are too many."""

from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest

from edgemim.errors import DataError, OutputError
from edgemim.preprocess import Pixels
from edgemim.training.feed.unreadable import FILE, Readable, Unreadable, UnreadableImageError


class Broken:
    """`count` images of one pixel, whose value is their index; some cannot be read."""

    def __init__(self, count: int, broken: Collection[int]) -> None:
        self.count = count
        self.broken = broken
        self.calls: list[int] = []

    def __len__(self) -> int:
        return self.count

    def get(self, i: int) -> Pixels:
        self.calls.append(i)
        if i in self.broken:
            raise UnreadableImageError(f"photo {i}", f"photo {i} is cut off")
        return np.full((1, 1, 3), i, dtype=np.uint8)


def readable(count: int, broken: Collection[int], share: float = 0.5) -> Readable:
    return Readable(Broken(count, broken), Unreadable(name="photos", images=count, share=share))


@pytest.mark.parametrize(("wanted", "expected"), [(0, 0), (3, 5), (4, 5), (9, 0)])
def test_the_next_readable_image_takes_the_place(wanted: int, expected: int) -> None:
    images = readable(10, {3, 4, 9})
    index, pixels = images.read(wanted)
    assert index == expected
    assert pixels[0, 0, 0] == expected
    assert images.get(wanted)[0, 0, 0] == expected


def test_which_image_it_is_does_not_depend_on_what_was_read_before() -> None:
    fresh = [readable(10, {3, 4, 9}).read(i)[0] for i in range(10)]
    used = readable(10, {3, 4, 9})
    for i in (9, 4, 0, 3):
        used.read(i)
    assert [used.read(i)[0] for i in range(10)] == fresh
    assert used.indices(range(10)) == fresh


def test_an_image_is_counted_and_tried_once() -> None:
    images = readable(10, {3})
    source = images.source
    for _ in range(3):
        images.read(3)
    assert len(images.unreadable) == 1
    assert isinstance(source, Broken)
    assert source.calls == [3, 4, 4, 4]


def test_as_many_as_the_limit_are_skipped_and_one_more_is_refused() -> None:
    images = readable(10, {0, 1, 2, 7}, share=0.39)  # 3
    images.read(0)
    assert list(images.unreadable) == [0, 1, 2]
    with pytest.raises(DataError) as caught:
        images.read(7)
    assert str(caught.value) == (
        "4 of the 10 images of photos cannot be read, training.max_unreadable 0.39 allows 3: "
        "photo 0, photo 1, photo 2, ...; remove or replace them, or allow more"
    )


def test_a_small_set_has_to_be_whole() -> None:
    with pytest.raises(DataError, match=r"photo 3 is cut off \(training\.max_unreadable 0\.001 of 10 images is none\)"):
        readable(10, {3}, share=0.001).read(3)


def test_another_error_ends_the_run() -> None:
    class Gone(Broken):
        def get(self, i: int) -> Pixels:
            raise DataError("shard 7 is gone")

    with pytest.raises(DataError, match="shard 7 is gone"):
        Readable(Gone(10, ()), Unreadable(name="photos", images=10, share=0.5)).read(0)


def test_they_are_named_in_the_run_folder_and_in_one_line(tmp_path: Path) -> None:
    images = readable(10, {3, 4, 6, 9})
    images.read(3)
    assert images.unreadable.summary() == "skipped 2 of 10 images, which cannot be read: photo 3, photo 4"
    images.unreadable.keep_in(tmp_path)
    images.read(6)
    images.read(9)
    lines = (tmp_path / FILE).read_text().splitlines()
    assert lines == [f"{i}\tphoto {i}\tphoto {i} is cut off" for i in (3, 4, 6, 9)]
    summary = images.unreadable.summary()
    assert summary is not None
    assert summary.startswith("skipped 4 of 10 images, which cannot be read: photo 3, photo 4, photo 6, ...; all are")
    assert str(tmp_path / FILE) in summary


def test_a_run_without_any_has_no_file_and_no_line(tmp_path: Path) -> None:
    images = readable(10, ())
    images.unreadable.keep_in(tmp_path)
    images.read(3)
    assert images.unreadable.summary() is None
    assert not list(tmp_path.iterdir())


def test_processes_of_a_run_count_together(tmp_path: Path) -> None:
    first, second = readable(10, {1, 5, 6, 8}, share=0.3), readable(10, {1, 5, 6, 8}, share=0.3)
    for images in (first, second):
        images.unreadable.keep_in(tmp_path)
    first.read(1)
    second.read(1)
    second.read(5)
    assert first.unreadable.summary() == second.unreadable.summary()
    with pytest.raises(DataError, match="4 of the 10 images"):
        first.read(8)


def test_a_resumed_run_knows_them(tmp_path: Path) -> None:
    before = readable(10, {1, 5})
    before.unreadable.keep_in(tmp_path)
    before.read(1)
    after = readable(10, {1, 5})
    after.unreadable.keep_in(tmp_path)
    assert after.read(1)[0] == 2
    assert isinstance(after.source, Broken)
    assert after.source.calls == [2]
    stricter = readable(10, {1, 5}, share=0)
    with pytest.raises(DataError, match="photo 1 is cut off"):
        stricter.unreadable.keep_in(tmp_path)


def test_a_line_that_a_kill_cut_off_is_ignored(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("3\tphoto 3\tphoto 3 is cut off\n4\tpho")
    images = readable(10, ())
    images.unreadable.keep_in(tmp_path)
    assert list(images.unreadable) == [3]


def test_names_with_tabs_and_line_ends_stay_on_their_line(tmp_path: Path) -> None:
    unreadable = Unreadable(name="photos", images=10, share=0.5)
    unreadable.add(2, UnreadableImageError("a\tb\n.png", "a\tb\n.png is\r\ncut off"))
    unreadable.keep_in(tmp_path)
    assert (tmp_path / FILE).read_text() == "2\ta b .png\ta b .png is cut off\n"


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    images = readable(10, {3})
    images.unreadable.keep_in(tmp_path)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OutputError, match="the disk is full"):
        images.read(3)


def test_the_error_survives_the_way_out_of_a_worker() -> None:
    error = pickle.loads(pickle.dumps(UnreadableImageError("photo 3", "photo 3 is cut off")))
    assert (error.name, str(error)) == ("photo 3", "photo 3 is cut off")
