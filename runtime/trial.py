"""One candidate on one backend, from its engine to its outputs; a trial that fails says why and drops out."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemim.errors import DeviceError
from edgemim.preprocess import read_image
from edgemim.runtime.accuracy.classes import first_choice, margins
from edgemim.runtime.accuracy.cosine import Floats
from edgemim.runtime.accuracy.golden import GoldenMatch, compare_golden, compare_same_file
from edgemim.runtime.accuracy.measure import Accuracy, Answers, measure_accuracy
from edgemim.runtime.accuracy.neighbours import nearest_answers
from edgemim.runtime.backends import BACKENDS
from edgemim.runtime.backends._base import Backend, Engine, Session
from edgemim.runtime.bundle import Bundle
from edgemim.runtime.evaluation import Evaluation
from edgemim.runtime.latency.summary import Latency, Samples
from edgemim.runtime.plan import REFERENCE_BACKEND, Pair
from edgemim.runtime.power.meter import Power
from edgemim.runtime.probe.limits import process_limit
from edgemim.runtime.probe.result import Probe

Tick = Callable[[], None]


@dataclass(kw_only=True)
class Trial:
    """What is known so far about one pair.

    Attributes:
        of: Which of several bundles it belongs to; None where there is one.
        disqualified: Why it dropped out; None while it is in.
        load_s: Seconds that opening the compiled engine took.
        first_ms: Latency of the first run after loading, in milliseconds.
        answers: int64 [N], the class given to each evaluation image; None if the model has no classes.
        margins: float32 [N], how far that class's score is above the next.
        probe: What it took in a process of its own, where that was measured.
        prepared: Runs from encoded images to outputs, in turns right after those of `samples`; None where the bundle
            carries no golden images.
        same_file: The golden inputs through the same file on the reference backend, where that is compared too.
        facts: What the session told of itself when it was closed.
    """

    pair: Pair
    of: str | None = None
    disqualified: str | None = None
    engine: Engine | None = None
    session: Session | None = None
    load_s: float | None = None
    first_ms: float | None = None
    golden: GoldenMatch | None = None
    answers: Answers | None = None
    margins: Floats | None = None
    accuracy: Accuracy | None = None
    samples: Samples | None = None
    latency: Latency | None = None
    prepared: Samples | None = None
    power: Power | None = None
    same_file: GoldenMatch | None = None
    probe: Probe | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """`int8-nncf`; of one of several bundles `small:int8-nncf`."""
        return self.pair.candidate.name if self.of is None else f"{self.of}:{self.pair.candidate.name}"

    @property
    def label(self) -> str:
        """`int8-nncf on openvino`, for sentences."""
        return f"{self.name} on {self.pair.backend.name}"

    @property
    def key(self) -> str:
        """`int8-nncf@openvino`, for arrays."""
        return f"{self.name}@{self.pair.backend.name}"

    def infer(self, bundle: Bundle, inputs: Mapping[str, npt.NDArray[Any]]) -> Floats | None:
        """Outputs float32 [B, K]; None, and the trial drops out, if the vendor library fails.

        Outputs other than the main one, such as tokens, are ignored.
        """
        assert self.session is not None
        try:
            outputs = self.session.run(inputs)
            if bundle.output_name not in outputs:
                raise DeviceError(f"{self.label} returned {sorted(outputs)}, not {bundle.output_name!r}")
        except DeviceError as error:
            self.fail(error)
            return None
        return outputs[bundle.output_name].astype(np.float32, copy=False)

    def fail(self, error: DeviceError) -> None:
        """Drop out because the vendor library failed."""
        self.disqualified = str(error)

    def close(self) -> None:
        """Free the session."""
        if self.session is not None:
            self.facts = self.session.facts()
            self.session.close()
            self.session = None


def still_in(trials: Sequence[Trial]) -> list[Trial]:
    """The trials that have not dropped out."""
    return [trial for trial in trials if trial.disqualified is None]


def start(trial: Trial, bundle: Bundle, cache: Path, threads: int, *, rebuild: bool = False) -> None:
    """Compile, load, run once, and compare with the golden outputs before any other number is taken.

    Args:
        rebuild: Compile again what an earlier check compiled.
    """
    backend = trial.pair.backend
    try:
        trial.engine = _compile(trial, bundle, cache, threads, rebuild=rebuild)
        started = time.perf_counter_ns()
        trial.session = backend.open(trial.engine)
        trial.load_s = (time.perf_counter_ns() - started) / 1e9
    except (DeviceError, MemoryError) as error:
        said = str(error) or f"{backend.name} ran out of memory"
        # Where memory is limited, that may be behind any failure: few libraries say so.
        limit = process_limit()
        trial.fail(DeviceError(said if limit is None else f"{said}; this process may have {limit}"))
        return
    rows = []
    for inputs, count in bundle.golden_batches():
        started = time.perf_counter_ns()
        outputs = trial.infer(bundle, inputs)
        if outputs is None:
            return
        if trial.first_ms is None:
            trial.first_ms = (time.perf_counter_ns() - started) / 1e6
        rows.append(outputs[:count])
    outputs = np.concatenate(rows)
    trial.golden = compare_golden(outputs, bundle.golden.outputs, trial.pair.candidate.precision)
    trial.disqualified = trial.golden.reason
    if trial.disqualified is None and backend.compares_with_reference:
        _compare_with_reference(trial, outputs, bundle, cache, threads)


def _compile(trial: Trial, bundle: Bundle, cache: Path, threads: int, *, rebuild: bool) -> Engine:
    compile_ = trial.pair.backend.compile
    engine = compile_(bundle, trial.pair.candidate, cache, threads)
    if not rebuild or not engine.cached or engine.folder is None:
        return engine
    shutil.rmtree(engine.folder, ignore_errors=True)
    return compile_(bundle, trial.pair.candidate, cache, threads)


def _compare_with_reference(trial: Trial, outputs: Floats, bundle: Bundle, cache: Path, threads: int) -> None:
    """Compare with ONNX Runtime running the same file on the CPU; where that cannot, the golden outputs were all."""
    reference: Backend = BACKENDS.get(REFERENCE_BACKEND)()
    if reference.available() is not None:
        return
    other = Trial(pair=Pair(candidate=replace(trial.pair.candidate, options={}), backend=reference))
    try:
        other.session = reference.open(reference.compile(bundle, other.pair.candidate, cache, threads))
    except DeviceError:  # an operator in float16 that the CPU does not have
        return
    try:
        rows = [(other.infer(bundle, inputs), count) for inputs, count in bundle.golden_batches()]
    finally:
        other.close()
    found = [row[:count] for row, count in rows if row is not None]
    if len(found) == len(rows):
        trial.same_file = compare_same_file(outputs, np.concatenate(found), trial.pair.candidate.precision)
        trial.disqualified = trial.same_file.reason


def evaluate(trials: Sequence[Trial], bundle: Bundle, tick: Tick) -> Trial | None:
    """Run the evaluation images, and the gallery, through the trials that are in; returns the reference used.

    Args:
        trials: Those that were started.
        bundle: With evaluation images.
        tick: Called after every image.
    """
    assert bundle.evaluation is not None
    outputs = _run_all(trials, bundle, bundle.evaluation, tick)
    nearest = {} if bundle.gallery is None else _nearest(trials, outputs, bundle, bundle.gallery, tick)
    reference = find_reference(trials)
    for trial in still_in(trials):
        trial.accuracy = measure_accuracy(
            outputs[trial.label],
            labels=bundle.evaluation.labels,
            reference=None if reference is None else outputs[reference.label],
            classifies=bundle.classifies,
            answers=nearest.get(trial.label),
            reference_answers=None if reference is None else nearest.get(reference.label),
        )
        if bundle.classifies:
            trial.answers, trial.margins = first_choice(outputs[trial.label]), margins(outputs[trial.label])
    return reference


def _nearest(
    trials: Sequence[Trial], outputs: Mapping[str, Floats], bundle: Bundle, gallery: Evaluation, tick: Tick
) -> dict[str, Answers]:
    """By label, what the gallery says of every evaluation image."""
    others = _run_all(trials, bundle, gallery, tick)
    return {label: nearest_answers(outputs[label], others[label], gallery.labels) for label in others}


def _run_all(trials: Sequence[Trial], bundle: Bundle, images: Evaluation, tick: Tick) -> dict[str, Floats]:
    """Outputs on all images, in order, by label of the trials that are in afterwards.

    A batch is decoded and prepared once, then given to every trial, so that what is held of an image is its outputs.
    """
    found: dict[str, Floats] = {}
    encoded, done = images.encoded(), 0
    while part := list(itertools.islice(encoded, bundle.batch)):
        inputs = bundle.arrays(np.stack([bundle.preprocess.pixels(read_image(data)) for data in part]))
        for trial in still_in(trials):
            outputs = trial.infer(bundle, inputs)
            if outputs is not None:
                if trial.label not in found:
                    found[trial.label] = np.empty((len(images), outputs.shape[1]), dtype=np.float32)
                found[trial.label][done : done + len(part)] = outputs[: len(part)]
        done += len(part)
        for _ in part:
            tick()
    for trial in still_in(trials):
        if not np.isfinite(found[trial.label]).all():
            trial.disqualified = "its outputs on the evaluation images are not all finite"
    return {trial.label: found[trial.label] for trial in still_in(trials)}


def find_reference(trials: Sequence[Trial]) -> Trial | None:
    """The fp32 trial that is still in: on the reference backend, or else the first."""
    full = [trial for trial in still_in(trials) if trial.pair.candidate.precision == "fp32"]
    on_reference = [trial for trial in full if trial.pair.backend.name == REFERENCE_BACKEND]
    return next(iter(on_reference + full), None)
