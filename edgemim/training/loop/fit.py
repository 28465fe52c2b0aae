"""The loop: Lightning's Trainer over a whole run as one epoch, resumable at any step.

Lightning's own epochs, samplers and checkpoint files are not used: a state saved in the middle of an epoch, or
on its last batch, must continue with exactly the images that come next.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from edgemim.errors import ConfigError, DataError, TrainingError
from edgemim.methods._base import Method
from edgemim.models.sharding import shard
from edgemim.models.teachers import Teacher
from edgemim.preprocess import Preprocess
from edgemim.training.feed.images import AugmentedImages, Feed, loader, workers_for
from edgemim.training.feed.resident import DrawnImages, resident_on
from edgemim.training.feed.streamed import order_of, workers_of
from edgemim.training.loop.averaging import WeightAverage
from edgemim.training.loop.compilation import Work, compiled
from edgemim.training.loop.devices import Told, devices_of, tell_less
from edgemim.training.loop.following import Following
from edgemim.training.loop.memory import kept_memory
from edgemim.training.loop.module import TrainingModule
from edgemim.training.loop.parts import Parts
from edgemim.training.loop.precision import lightning_precision
from edgemim.training.loop.processes import ALONE, Team
from edgemim.training.loop.remembering import remembering
from edgemim.training.loop.unused import unused_parameters
from edgemim.training.saving.fitting import refuse_misfit
from edgemim.training.saving.retention import Retention
from edgemim.training.saving.save import SaveState
from edgemim.training.saving.state import BEST, KEPT, LAST, VerifiedCheckpointIO, newest_state
from edgemim.training.settings.run import RunSettings
from edgemim.training.shown.progress import ProgressCallback
from edgemim.training.shown.say import say


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """How a run went.

    Attributes:
        steps: Of the whole run.
        resumed_from: Step at which this process took over; 0 for a run done in one go.
        seconds: That this process trained.
        images_per_second: In this process.
        loss: At the last logged step; None where this process found every step done.
        data_wait: Share of the time that was spent waiting for images, in [0, 1].
        unreadable: Images that could not be read and were skipped.
        device: Where it ran.
        precision: Lightning's name of the arithmetic.
        untrained: Parameters that never got a gradient.
    """

    steps: int
    resumed_from: int
    seconds: float
    images_per_second: float
    loss: float | None
    device: str
    precision: str
    untrained: tuple[str, ...] = ()
    data_wait: float = 0.0
    unreadable: int = 0


def fit(
    method: torch.nn.Module,
    images: AugmentedImages,
    settings: RunSettings,
    contract: Preprocess,
    *,
    run: Path,
    title: str,
    resume: bool = False,
    callbacks: Sequence[L.Callback] = (),
    team: Team = ALONE,
) -> Fitted:
    """Train `method` to the end of its run.

    Args:
        method: Called with a `Batch` and a generator, giving a `Step`.
        images: The training images.
        settings: Of the run.
        contract: Normalises the images.
        run: Folder for the state and the logs.
        title: Name of the run for progress.
        resume: Go on from the newest state in `run/last`, where there is one.
        callbacks: Beside progress and saving; of every process.
        team: The processes of the run. All of them call this; the first alone writes and speaks.

    Raises:
        ConfigError: The batch cannot be divided among them.
        DataError: There are fewer images than one batch takes.
        TrainingError: The loss is not finite.
        Interrupted, Preempted: A signal stopped the run; its state is saved.
    """
    training = settings.training
    check_batch(settings, len(images))
    steps = training.total_steps(len(images))
    state = _state(run, team) if resume else None
    start = state[1] if state else 0
    parts = Parts.of(rank=team.rank, processes=team.count, accumulate=training.accumulate)
    module = TrainingModule(
        method, training, contract, steps=steps, seed=settings.seed, images=len(images), parts=parts, team=team
    )
    if team.count > 1:
        tell_less(module, unused_parameters(module, images))
    if training.shard_teacher:
        _shard_teacher(method, team)
    order = order_of(images.decoded.source, settings, steps=steps, start_step=start, parts=parts)
    progress = ProgressCallback(title, training.batch_size)
    precision = team.of_first(lambda: lightning_precision(training.precision))
    average = [WeightAverage(training.ema)] if training.ema else []
    retention = Retention(run, training.save_every, training.save_keep)
    with _quiet():
        trainer = L.Trainer(
            max_steps=steps,
            max_epochs=1,
            **devices_of(team),
            precision=precision,
            gradient_clip_val=training.clip_grad or None,
            accumulate_grad_batches=len(parts.mine),
            deterministic=settings.deterministic,
            callbacks=[
                Following(),
                *remembering(method, images),
                *average,
                *([progress] if team.first else []),
                *callbacks,
                SaveState(run, training.save_minutes, retention, team),
            ],
            logger=_loggers(run, start) if team.first else False,
            plugins=[VerifiedCheckpointIO(training.save_keep), Told(team)],
            profiler=module.pace,
            use_distributed_sampler=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        device = trainer.strategy.root_device
        module.resident = resident_on(device, images)
        feed: Feed = images if module.resident is None else DrawnImages(images)
        workers = workers_for(training.workers, feed, device, cores=team.launch.cores)
        workers = workers_of(order, training.workers, workers)
        images.decoded.unreadable.keep_in(run)
        started = time.monotonic()
        if start < steps:
            work = Work(
                device=device,
                precision=precision,
                size=contract.size,
                steps=steps,
                images=steps * training.batch_size // team.count,
            )
            compiles = compiled(method, training.compile, work, aloud=team.first)
            with _interrupts(), kept_memory(device), compiles:
                trainer.fit(
                    module,
                    loader(feed, order, workers=workers),
                    ckpt_path=str(state[0]) if state else None,
                    weights_only=True,
                )
        else:
            assert state is not None
            saved = VerifiedCheckpointIO().load_checkpoint(state[0])
            refuse_misfit(saved, method, training)
            module.load_state_dict(saved["state_dict"], strict=False)
            module.untrained = tuple(saved.get("untrained", ()))
            for each in average:
                each.take_from(saved)
            if team.first:
                retention.restore(saved["callbacks"].get(SaveState.__name__, {}))
                retention.keep(start)
        for each in average:
            each.put_into(module)
    if team.first and (skipped := images.decoded.unreadable.summary()) is not None:
        say(skipped)
    return Fitted(
        steps=steps,
        resumed_from=start,
        seconds=time.monotonic() - started,
        images_per_second=progress.images_per_second,
        loss=module.metrics.get("loss"),
        device=str(trainer.strategy.root_device),
        precision=precision,
        untrained=module.untrained or (),
        data_wait=module.pace.data_wait,
        unreadable=len(images.decoded.unreadable),
    )


def _state(run: Path, team: Team) -> tuple[Path, int] | None:
    """The state to go on from, as the first process finds it: the others must not take another one."""

    def find() -> tuple[str, int] | None:
        found = newest_state(run)
        return None if found is None else (str(found[0]), found[1])

    found = team.of_first(find)
    return None if found is None else (Path(found[0]), found[1])


def _shard_teacher(method: torch.nn.Module, team: Team) -> None:
    teacher = getattr(method, "teacher", None)
    if team.device is None or not isinstance(teacher, Teacher):
        return
    if any(True for _ in teacher.parameters()):  # none where what it saw was stored
        shard(teacher, team.device)


def check_batch(settings: RunSettings, images: int) -> None:
    """Refuse a batch that is bigger than the set.

    Raises:
        DataError: Says how big a batch can be.
    """
    wanted = settings.training.batch_size
    if images < wanted:
        raise DataError(
            f"{settings.data} has {images} images, one batch takes {wanted}; set --batch-size to at most {images}"
        )


def check_state(run: Path, method: torch.nn.Module, settings: RunSettings, images: int, team: Team = ALONE) -> None:
    """Refuse to go on with other settings where the state of a run does not fit them, before its folder is touched.

    Args:
        images: That it trains on.

    Raises:
        TrainingError: Says what does not fit.
    """
    steps = settings.training.total_steps(images)

    def look() -> None:
        found = newest_state(run)
        if found is None:
            return
        if found[1] > steps:
            raise TrainingError(
                f"the newest state in {run} is of step {found[1]}, and the run would end at {steps}; give more --steps "
                f"or --epochs, or, to go back, move the later states out of {LAST}/, {KEPT}/ and {BEST}/"
            )
        saved = VerifiedCheckpointIO().load_checkpoint(found[0])
        refuse_misfit(saved, method, settings.training)
        if settings.training.ema:
            WeightAverage(settings.training.ema).take_from(saved)

    team.of_first(look)


def check_groups(method: Method, settings: RunSettings, team: Team = ALONE) -> None:
    """Refuse a batch whose parts hold fewer images than a method mixes, or no whole number of the groups it needs.

    Raises:
        ConfigError: Says how big a batch can be.
    """
    training = settings.training
    parts = Parts.of(rank=0, processes=team.count, accumulate=training.accumulate)
    if method.corrupts and parts.size(training.batch_size) < 2:
        raise ConfigError(
            f"method {method.name()!r} puts parts of other images of a batch into each, and a batch of "
            f"{training.batch_size} in {parts.total} part(s) has one at a time; set --batch-size to at least "
            f"{2 * parts.total}"
        )
    if parts.size(training.batch_size) % method.group:
        whole = method.group * parts.total
        raise ConfigError(
            f"method {method.name()!r} takes images in groups of {method.group}, and a batch of {training.batch_size} "
            f"in {parts.total} part(s) does not hold whole ones; set --batch-size to a multiple of {whole}"
        )


@contextmanager
def _interrupts() -> Iterator[None]:
    """Let Ctrl-C through: Lightning makes exit(1) of it, and leaves the process deaf to further ones."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def _loggers(run: Path, start: int) -> list[CSVLogger | TensorBoardLogger]:
    # Lightning's CSV logger empties the folder that it finds: each process of a resumed run gets its own.
    logs = run / "logs"
    return [
        CSVLogger(logs, name="csv", version=f"from-step-{start:09d}"),
        TensorBoardLogger(logs, name="tensorboard", version=""),
    ]


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's advice on stderr is about trainers, not about the user's run."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for module in ("lightning", "torch.utils.data", "torch.optim.lr_scheduler"):
                warnings.filterwarnings("ignore", module=module.replace(".", r"\."))
            yield
    finally:
        logger.setLevel(level)
