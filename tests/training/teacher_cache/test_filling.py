"""Every view of every image is looked at once, by whichever process, and again only where it was lost."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from edgemim.errors import OutputError, Preempted
from edgemim.training.feed.augmentation import Augmentation
from edgemim.training.feed.images import AugmentedImages, Raw
from edgemim.training.loop.launch import Launch
from edgemim.training.loop.processes import Team
from edgemim.training.saving.save import Interrupted
from edgemim.training.settings.augmentation import AugmentationSettings
from edgemim.training.teacher_cache import filling as module
from edgemim.training.teacher_cache import store as store_module
from edgemim.training.teacher_cache.filling import Filling
from edgemim.training.teacher_cache.store import RowStore

IMAGES, VIEWS = 24, 3
ROWS = IMAGES * VIEWS


class FakeEyes:
    """Sees the mean of each channel, and remembers how many images it has seen; may get a signal on the way."""

    def __init__(self) -> None:
        self.seen = 0
        self.signal: int | None = None

    def __call__(self, raw: Raw) -> dict[str, Tensor]:
        self.seen += len(raw["images"])
        if self.signal is not None and self.seen > ROWS // 2:
            signal.raise_signal(self.signal)
        return {"summary": raw["images"].float().mean(dim=(2, 3))}


@dataclass(frozen=True, kw_only=True)
class FakeTeam(Team):
    """One of several processes that run one after the other: it never waits."""

    def wait(self) -> None:
        return


@pytest.fixture
def images(noise: Callable[[int], Any]) -> AugmentedImages:
    settings = AugmentationSettings(views=VIEWS)
    return AugmentedImages(noise(IMAGES), None, Augmentation(size=(16, 16), settings=settings, seed=0))


@pytest.fixture
def filling(images: AugmentedImages, monkeypatch: pytest.MonkeyPatch) -> Filling:
    """Shards of 10 rows, the last of them short, seen in batches of 4."""
    monkeypatch.setattr(store_module, "_SHARD_BYTES", 10 * 3 * 4)
    monkeypatch.setattr(module, "_BATCH", 4)
    return Filling(images=images, eyes=FakeEyes())  # type: ignore[arg-type]


def eyes_of(filling: Filling) -> Any:
    return filling.eyes


def filled(filling: Filling, folder: Path) -> RowStore:
    store = filling.begin(folder, {"a": 1}, rows=ROWS)
    eyes_of(filling).seen = 0
    filling.complete(store, store.shards)
    return store


def expected(images: AugmentedImages) -> Tensor:
    """What each view of each image has to give, through the images' own batches."""
    places = [(view, index) for view in range(VIEWS) for index in range(IMAGES)]
    return images.__getitems__(places)["images"].float().mean(dim=(2, 3))


def test_row_by_row_it_holds_what_was_seen_in_each_view(
    filling: Filling, images: AugmentedImages, tmp_path: Path
) -> None:
    store = filled(filling, tmp_path / "store")
    assert len(store.shards) == 8
    assert torch.equal(store.read(range(ROWS))["summary"], expected(images))
    assert eyes_of(filling).seen == ROWS


def test_what_is_there_is_not_looked_at_again(
    filling: Filling, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(filling, tmp_path / "store")
    told = capsys.readouterr().err
    assert "cached teacher: 0.8 KiB in" in told
    assert "0.8 KiB to be made" in told
    assert "teacher looks at images 72/72" in told
    filled(filling, tmp_path / "store")
    assert eyes_of(filling).seen == 0
    assert "all there" in capsys.readouterr().err


def test_only_the_wanted_shards_are_made(filling: Filling, tmp_path: Path) -> None:
    store = filling.begin(tmp_path / "store", {"a": 1}, rows=ROWS)
    filling.complete(store, range(3))
    assert store.missing() == [3, 4, 5, 6, 7]


def test_a_damaged_shard_is_made_again_and_it_says_so(
    filling: Filling, images: AugmentedImages, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(filling, tmp_path / "store")
    shard = min((tmp_path / "store").glob("00002-*"))
    shard.write_bytes(shard.read_bytes()[:-1])
    store = filled(filling, tmp_path / "store")
    assert "1 of the shards in" in capsys.readouterr().err
    assert eyes_of(filling).seen == 10
    assert torch.equal(store.read(range(ROWS))["summary"], expected(images))


def test_an_index_that_was_lost_is_written_again_and_the_shards_stay(filling: Filling, tmp_path: Path) -> None:
    filled(filling, tmp_path / "store")
    (tmp_path / "store" / "index.json").unlink()
    filled(filling, tmp_path / "store")
    assert eyes_of(filling).seen == 0


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, Preempted), (signal.SIGINT, Interrupted)])
def test_a_signal_stops_it_and_the_next_one_goes_on(
    filling: Filling, images: AugmentedImages, tmp_path: Path, number: int, error: type[BaseException]
) -> None:
    store = filling.begin(tmp_path / "store", {"a": 1}, rows=ROWS)
    eyes_of(filling).signal = number
    before = signal.getsignal(number)
    with pytest.raises(error, match=r"^stopped when the teacher had looked at \d+ of 72 images; what it saw is kept;"):
        filling.complete(store, store.shards)
    assert signal.getsignal(number) is before
    left = len(store.missing())
    assert 0 < left < 8
    eyes_of(filling).signal = None
    store = filled(filling, tmp_path / "store")
    assert eyes_of(filling).seen <= left * 10
    assert torch.equal(store.read(range(ROWS))["summary"], expected(images))


def test_a_signal_in_the_last_moment_is_not_lost(
    filling: Filling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filling.begin(tmp_path / "store", {"a": 1}, rows=ROWS)
    write = RowStore.write

    def slow(self: RowStore, shard: int, tensors: Any) -> None:
        write(self, shard, tensors)
        if shard == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(RowStore, "write", slow)
    with pytest.raises(Preempted, match=r"looked at 72 of 72 images"):
        filling.complete(store, store.shards)
    assert store.missing() == []


def test_a_shard_that_cannot_be_written_ends_it(
    filling: Filling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filling.begin(tmp_path / "store", {"a": 1}, rows=ROWS)

    def full(self: RowStore, shard: int, tensors: Any) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(RowStore, "write", full)
    with pytest.raises(OSError, match="no space left"):
        filling.complete(store, store.shards)
    assert eyes_of(filling).seen < ROWS  # it is noticed at the next shard, not at the end


def test_a_disk_without_room_is_refused_before_anything_is_looked_at(
    filling: Filling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filling.begin(tmp_path / "store", {"a": 1}, rows=ROWS)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage._replace(free=800))
    eyes_of(filling).seen = 0
    with pytest.raises(OutputError, match=r"takes 0\.8 KiB more in .*, where 0\.8 KiB are free; set XDG_CACHE_HOME"):
        filling.complete(store, store.shards)
    assert eyes_of(filling).seen == 0


def test_processes_of_one_machine_share_the_work(filling: Filling, images: AugmentedImages, tmp_path: Path) -> None:
    seen = []
    for rank in range(2):
        launch = Launch(rank=rank, count=2, local_rank=rank, local_count=2)
        one = replace(filling, team=FakeTeam(launch=launch), eyes=FakeEyes())  # type: ignore[arg-type]
        store = filled(one, tmp_path / "store")
        seen.append(eyes_of(one).seen)
    assert seen == [40, 32]
    assert torch.equal(store.read(range(ROWS))["summary"], expected(images))


def test_machines_without_a_common_disk_each_make_all(
    filling: Filling, images: AugmentedImages, tmp_path: Path
) -> None:
    for rank in range(2):
        launch = Launch(rank=rank, count=2, local_rank=0, local_count=1)
        one = replace(filling, team=FakeTeam(launch=launch), eyes=FakeEyes())  # type: ignore[arg-type]
        store = filled(one, tmp_path / f"machine{rank}")
        assert torch.equal(store.read(range(ROWS))["summary"], expected(images))
        assert eyes_of(one).seen == ROWS


def test_worker_processes_read_the_images_too(filling: Filling, images: AugmentedImages, tmp_path: Path) -> None:
    store = filled(replace(filling, workers=1), tmp_path / "store")
    assert torch.equal(store.read(range(ROWS))["summary"], expected(images))
