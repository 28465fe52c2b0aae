"""Filling a store: the teacher looks at every view of every image once, each process of a run at its share of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edgemim.errors import OutputError, Preempted
from edgemim.training.feed.images import AugmentedImages, loader
from edgemim.training.feed.order import Place
from edgemim.training.loop.processes import ALONE, Team
from edgemim.training.saving.save import Interrupted
from edgemim.training.saving.signals import PREEMPT, StopSignals
from edgemim.training.shown.counting import counted
from edgemim.training.shown.say import say
from edgemim.training.teacher_cache.eyes import Eyes
from edgemim.training.teacher_cache.store import Column, RowStore, open_store, write_index

INSTEAD = "set XDG_CACHE_HOME to a folder with room"
_BATCH = 64
# So many shards take longer to read than a person waits without a word.
_MANY = 64


@dataclass(frozen=True, kw_only=True)
class Filling:
    """Who looks at what. All processes of a run call the same methods in the same order.

    Attributes:
        images: The training images; row v * N + i of a store is for view v of image i, of N.
        eyes: The teacher.
        workers: Processes that read and crop.
        team: The processes of the run.
    """

    images: AugmentedImages
    eyes: Eyes
    workers: int = 0
    team: Team = ALONE

    def begin(self, folder: Path, facts: Mapping[str, Any], *, rows: int) -> RowStore:
        """The store of these facts, full or not; its folder is begun where there is none."""
        store = open_store(folder, facts)
        if store is None and self.team.launch.local_rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            example = self.eyes(self.images.__getitems__([(0, 0)]))
            columns = {name: Column.of(tensor) for name, tensor in example.items()}
            write_index(RowStore(folder, rows=rows, columns=columns), facts)
        self.team.wait()
        store = store or open_store(folder, facts)
        assert store is not None
        return store

    def complete(self, store: RowStore, wanted: Sequence[int]) -> None:
        """Make those of the wanted shards that are missing or damaged.

        Raises:
            OutputError: The disk has not enough room for them.
            Preempted, Interrupted: A signal asked to stop; the shards that were made stay.
        """
        team, here = self.team, self.team.launch
        damaged = _drop_damaged(store, wanted[here.local_rank :: here.local_count])
        if damaged:
            say(f"cached teacher: {len(damaged)} of the shards in {store.folder} were damaged and are made again")
        team.wait()
        missing = _missing(store, wanted)
        if here.local_rank == 0:
            _refuse_full_disk(store, missing)
        if team.first:
            done = "all there" if not missing else f"{readable(_size(store, missing))} to be made"
            say(f"cached teacher: {readable(_size(store, wanted))} in {store.folder}, {done}")
        team.wait()
        self._make(store, [shard for shard in missing if shard % team.count == team.rank])
        team.wait()
        # Machines that share no disk: each makes for itself what the others made for themselves.
        left = _missing(store, wanted)
        self._make(store, [shard for shard in left if shard % here.local_count == here.local_rank])
        team.wait()

    def _make(self, store: RowStore, shards: Sequence[int]) -> None:
        if not shards:
            return
        batches = iter(loader(self.images, self._places(store, shards), workers=self.workers))
        total, done = sum(len(store.rows_of(shard)) for shard in shards), 0
        written: Future[None] | None = None
        with (
            counted("teacher looks at images") as progress,
            _stoppable(progress, shown=self.team.first) as report,
            ThreadPoolExecutor(max_workers=1) as writer,  # the teacher looks on meanwhile
        ):
            for shard in shards:
                parts, left = [], len(store.rows_of(shard))
                while left:
                    raw = next(batches)
                    parts.append(self.eyes(raw))
                    left, done = left - len(raw["index"]), done + len(raw["index"])
                    report(done, total)
                if written is not None:
                    written.result()
                rows = {name: torch.cat([part[name] for part in parts]) for name in store.columns}
                written = writer.submit(store.write, shard, rows)
            assert written is not None
            written.result()

    def _places(self, store: RowStore, shards: Sequence[int]) -> Iterator[list[Place]]:
        """Batches of (view, image), none of which reaches into another shard."""
        for shard in shards:
            rows = store.rows_of(shard)
            for start in range(0, len(rows), _BATCH):
                yield [divmod(row, len(self.images)) for row in rows[start : start + _BATCH]]


def readable(size: int) -> str:
    """Bytes in the largest unit of which there is at least one."""
    for unit, name in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size / 1024:.1f} KiB"


@contextmanager
def _stoppable(progress: Callable[[int, int], None], *, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """Reports the progress, and stops where a signal has asked for it, at the end too."""
    signals = StopSignals()
    signals.install()
    what = ""

    def report(done: int, total: int) -> None:
        nonlocal what
        what = f"stopped when the teacher had looked at {done} of {total} images; what it saw is kept"
        if shown:
            progress(done, total)
        stop()

    def stop() -> None:
        if signals.asked:
            kind = Preempted if signals.asked == PREEMPT else Interrupted
            raise kind(f"{what}; run the same command with --resume to go on")

    try:
        yield report
        stop()
    finally:
        signals.restore()


def _drop_damaged(store: RowStore, shards: Sequence[int]) -> list[int]:
    if len(shards) < _MANY:
        return store.drop_damaged(shards)
    with counted("stored shards looked through") as progress:
        return store.drop_damaged(shards, progress)


def _missing(store: RowStore, wanted: Sequence[int]) -> list[int]:
    there = {*wanted} - {*store.missing()}
    return [shard for shard in wanted if shard not in there]


def _size(store: RowStore, shards: Sequence[int]) -> int:
    return sum(len(store.rows_of(shard)) for shard in shards) * store.row_bytes


def _refuse_full_disk(store: RowStore, missing: Sequence[int]) -> None:
    needed, free = _size(store, missing), shutil.disk_usage(store.folder).free
    if needed > free:
        raise OutputError(
            f"a cached teacher of this run takes {readable(needed)} more in {store.folder}, where {readable(free)} are "
            f"free; {INSTEAD}, lower augmentation.views, or leave --cache-teacher out"
        )
