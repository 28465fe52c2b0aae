"""A model that is slower by a known share: ONNX Runtime, and work on the same core after every run."""

from __future__ import annotations

import hashlib
import itertools
import statistics
import time
from array import array
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy.typing as npt

from edgemim.runtime.backends._base import Arrays, Engine, Session
from edgemim.runtime.backends.onnxruntime import OnnxRuntimeBackend
from edgemim.runtime.predict.choice import Choice
from edgemim.runtime.rotation import timed_inputs

# Hashed again and again: it stays in the fastest cache, and does not push out what the model has there.
_BLOCK = memoryview(bytes(16_384))
# Bytes to begin with.
_FIRST = 1_000_000
# Passes, in pairs of the caller's number, each with the bytes that the one before came to; the last ones until the
# share is near enough to the target.
_PASSES = (1, 2, 4, 4, 4, 4)
_SURE, _NEAR = 3, 0.03


@dataclass(kw_only=True)
class Shares:
    """Nanoseconds of every run, of the model and of the work after it."""

    model_ns: array[int] = field(default_factory=lambda: array("q"))
    work_ns: array[int] = field(default_factory=lambda: array("q"))

    def median(self) -> float:
        """The work's share of the model's time. Within a run: what slows the machine slows both."""
        return statistics.median(work / model for work, model in zip(self.work_ns, self.model_ns, strict=True))


class SlowedSession(Session):
    """A session that hashes so many bytes after every run, and writes down how long both take."""

    def __init__(self, session: Session, count: int, shares: Shares) -> None:
        self._session, self._shares = session, shares
        self._blocks, self._rest = count // len(_BLOCK), _BLOCK[: count % len(_BLOCK)]

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        began = time.perf_counter_ns()
        outputs = self._session.run(inputs)
        between = time.perf_counter_ns()
        work = hashlib.sha256(self._rest)
        for _ in range(self._blocks):
            work.update(_BLOCK)
        ended = time.perf_counter_ns()
        self._shares.model_ns.append(between - began)
        self._shares.work_ns.append(ended - between)
        return outputs

    def close(self) -> None:
        self._session.close()


class SlowedBackend(OnnxRuntimeBackend):
    """ONNX Runtime, and work beside it.

    Attributes:
        shares: Of all sessions that it opened.
    """

    name: ClassVar[str] = "slowed"

    def __init__(self, count: int) -> None:
        self._count, self.shares = count, Shares()

    def open(self, engine: Engine) -> Session:
        return SlowedSession(super().open(engine), self._count, self.shares)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What was found before anything was compared.

    Attributes:
        hashed_bytes: After every run of the model.
        share: Of the model's time that hashing them took, in the last pass; `pairs` of it.
    """

    hashed_bytes: int
    share: float
    pairs: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the result."""
        return asdict(self)


def calibrate(choice: Choice, target: float, *, pairs: int) -> Calibration:
    """How many bytes' hash takes a share `target` of the model's time; model and hash are run in turns.

    Args:
        choice: The model, on ONNX Runtime.
        target: Above 0.
        pairs: Runs in the first of three passes; the second has twice as many, the third four times.

    Raises:
        SystemExit: Three passes more, and what the bytes took was still not within 3 % of the target.
    """
    backend, count = choice.pair.backend, _FIRST
    engine = backend.compile(choice.bundle, choice.pair.candidate, choice.bundle.artifact.path, choice.threads)
    batches = timed_inputs(choice.bundle)
    for number, times in enumerate(_PASSES, 1):
        shares = Shares()
        session = SlowedSession(backend.open(engine), count, shares)
        for inputs in itertools.islice(itertools.cycle(batches), times * pairs):
            session.run(inputs)
        session.close()
        found = shares.median()
        if number >= _SURE and abs(found / target - 1) <= _NEAR:
            return Calibration(hashed_bytes=count, share=round(found, 5), pairs=times * pairs)
        count = max(1, round(count * target / found))
    raise SystemExit(
        f"the work took {found:.2%} of the model's time, not {target:.0%}: the machine is not quiet enough"
    )
