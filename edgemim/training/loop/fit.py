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

from edgemim.errors import DataError
from edgemim.preprocess import Preprocess
from edgemim.training.feed.images import AugmentedImages, loader
from edgemim.training.feed.order import BatchOrder
from edgemim.training.loop.module import TrainingModule
from edgemim.training.loop.parts import Parts
from edgemim.training.loop.precision import lightning_precision
from edgemim.training.saving.save import SaveState
from edgemim.training.saving.state import VerifiedCheckpointIO, newest_state
from edgemim.training.settings.run import RunSettings
from edgemim.training.shown.progress import ProgressCallback


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """How a run went.

    Attributes:
        steps: Of the whole run.
        resumed_from: Step at which this process took over; 0 for a run done in one go.
        seconds: That this process trained.
        images_per_second: In this process.
        loss: At the last logged step; None where this process found every step done.
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
        callbacks: Beside progress and saving.

    Raises:
        DataError: There are fewer images than one batch takes.
        TrainingError: The loss is not finite.
        Interrupted, Preempted: A signal stopped the run; its state is saved.
    """
    training = settings.training
    check_batch(settings, len(images))
    steps = training.total_steps(len(images))
    state = newest_state(run) if resume else None
    start = state[1] if state else 0
    parts = Parts.of(rank=0, processes=1, accumulate=training.accumulate)
    module = TrainingModule(method, training, contract, steps=steps, seed=settings.seed, parts=parts)
    order = BatchOrder(
        images=len(images),
        batch_size=training.batch_size,
        steps=steps,
        seed=settings.seed,
        start_step=start,
        parts=parts,
    )
    progress = ProgressCallback(title, training.batch_size)
    precision = lightning_precision(training.precision)
    with _quiet():
        trainer = L.Trainer(
            max_steps=steps,
            max_epochs=1,
            accelerator="auto",
            devices=1,
            precision=precision,
            gradient_clip_val=training.clip_grad or None,
            accumulate_grad_batches=len(parts.mine),
            deterministic=settings.deterministic,
            callbacks=[progress, *callbacks, SaveState(run, training.save_minutes)],
            logger=_loggers(run, start),
            plugins=[VerifiedCheckpointIO()],
            use_distributed_sampler=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        started = time.monotonic()
        if start < steps:
            with _interrupts():
                trainer.fit(
                    module,
                    loader(images, order, workers=training.workers),
                    ckpt_path=str(state[0]) if state else None,
                    weights_only=True,
                )
        else:
            assert state is not None
            saved = VerifiedCheckpointIO().load_checkpoint(state[0])
            module.load_state_dict(saved["state_dict"], strict=False)
            module.untrained = tuple(saved.get("untrained", ()))
    return Fitted(
        steps=steps,
        resumed_from=start,
        seconds=time.monotonic() - started,
        images_per_second=progress.images_per_second,
        loss=module.metrics.get("loss"),
        device=str(trainer.strategy.root_device),
        precision=precision,
        untrained=module.untrained or (),
    )


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
