"""`--cache-teacher`: before training the teacher looks at every crop once; what it saw is read from disk ever after.

Worth it where crops come again, since a frozen teacher then says the same again. It is not even on the device while the
student trains. What is stored lies in the user's cache folder, under a key of everything that it depends on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from edgemim.artifact import writing
from edgemim.data.cache import default_cache
from edgemim.errors import ConfigError
from edgemim.methods import METHODS
from edgemim.methods._base import Method
from edgemim.preprocess import Preprocess
from edgemim.training.feed.images import AugmentedImages, Raw, workers_for
from edgemim.training.loop.precision import lightning_precision
from edgemim.training.loop.processes import ALONE, Team
from edgemim.training.settings.run import RunSettings
from edgemim.training.shown.say import say
from edgemim.training.teacher_cache.eyes import Eyes
from edgemim.training.teacher_cache.filling import INSTEAD, Filling
from edgemim.training.teacher_cache.key import facts_of, key_of
from edgemim.training.teacher_cache.rows import TeacherRows, seen_by_teacher, with_prefix
from edgemim.training.teacher_cache.store import RowStore


@dataclass(frozen=True, kw_only=True)
class CachedTeacher:
    """What a run keeps of a teacher that was dismissed for what is stored.

    Attributes:
        record: For the provenance; None where there is no such teacher.
        shown: What it saw in the images that the run draws pictures of, to be merged into their batch.
    """

    record: Mapping[str, Any] | None = None
    shown: Raw = field(default_factory=dict)


def check_cacheable(method: Method, settings: RunSettings) -> None:
    """Refuse a run whose teacher would not say the same again; before it has a folder.

    Raises:
        ConfigError: Says why, and what to do.
    """
    name = method.name()
    if method.teacher is None:
        raise ConfigError(f"method {name!r} learns without a teacher; leave --cache-teacher out")
    if method.asked is None:
        fitting = [n for n in METHODS if _sees_whole_images(METHODS.get(n))]
        raise ConfigError(
            f"method {name!r} cannot have a cached teacher: its teacher sees what the mask leaves of an image, which "
            f"is something else in each step; methods that can: {', '.join(fitting)}"
        )
    if settings.training.shard_teacher:
        raise ConfigError(
            "training.shard_teacher spreads a teacher that runs in every step, a cached one runs before the first, "
            "whole; leave one of them out"
        )
    if not seen_by_teacher(settings.augmentation).different_views:
        raise ConfigError(
            "a cached teacher needs crops that come again, and this run draws new ones in each epoch; give each image "
            "a fixed number of them with --set augmentation.views=8, or leave --cache-teacher out"
        )


def cache_teacher(
    method: Method,
    images: AugmentedImages,
    settings: RunSettings,
    contract: Preprocess,
    *,
    data: str,
    shown: Tensor | None = None,
    team: Team = ALONE,
) -> CachedTeacher:
    """Let the teacher look at every crop of the run that it has not seen before, and dismiss it.

    From then on the batches of `images` bring along what it saw. Called by all processes of a run, each of which
    looks at its share.

    Args:
        method: That `check_cacheable` has let through.
        images: The training images.
        settings: Of the run.
        contract: Of the images.
        data: Fingerprint of the images.
        shown: uint8 [B, 3, H, W], images that the run draws pictures of.
        team: The processes of the run.

    Raises:
        OutputError: The disk has not enough room, or cannot be written.
        Preempted, Interrupted: A signal asked to stop; what is complete stays and is not made again.
    """
    teacher, asked = method.teacher, method.asked
    assert teacher is not None
    assert asked is not None
    device = team.device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = lightning_precision(settings.training.precision)
    facts = facts_of(teacher, asked, settings, contract, data=data, images=len(images), precision=precision)
    folder = default_cache().parent / "teachers" / key_of(facts)
    eyes = Eyes(teacher, asked, contract, device=device, bf16=precision.startswith("bf16"))
    workers = workers_for(settings.training.workers, images, device, cores=team.launch.cores)
    filling = Filling(images=images, eyes=eyes, workers=workers, team=team)
    with writing(folder, instead=INSTEAD), alone(folder, team):
        views = seen_by_teacher(settings.augmentation).different_views
        store = filling.begin(folder, facts, rows=views * len(images))
        filling.complete(store, _wanted(store, images, settings))
    seen = with_prefix(eyes({"images": shown})) if shown is not None and method.masking.needs else {}
    teacher.dismiss()
    images.taught = TeacherRows(store, len(images), settings.augmentation)
    return CachedTeacher(record={"key": folder.name, "views": views, "row_bytes": store.row_bytes}, shown=seen)


@contextmanager
def alone(folder: Path, team: Team) -> Iterator[None]:
    """No other run fills the same folder meanwhile; the first process of a run holds the lock for all of it."""
    if not team.first:
        yield
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"another run fills {folder}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _wanted(store: RowStore, images: AugmentedImages, settings: RunSettings) -> range:
    """Shards that a run reads: a short one never comes to the later views."""
    shown = settings.training.total_steps(len(images)) * settings.training.batch_size
    epochs = -(-shown // len(images))
    rows = min(store.rows, epochs * len(images))
    return range(-(-rows // store.shard_rows))


def _sees_whole_images(method: type[Method]) -> bool:
    return method.needs_teacher and "full" in method.teacher_needs
