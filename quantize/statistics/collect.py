"""Go through the calibration images and learn of the activations, one image at a time.

    statistics = collect(model, calibration, [Tensor(key="blocks.0.mlp.fc2:input", value="gelu")], state=file)
    statistics["blocks.0.mlp.fc2:input"].maximum

The result is the same to the last bit whatever the number of workers, and however often the work was interrupted:
every image runs alone, with one thread, and everything that is kept of it is a count or a maximum.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgemim.errors import ConfigError, EdgemimError
from edgemim.quantize.calibration import Calibration
from edgemim.quantize.statistics.in_order import in_order, usual_workers
from edgemim.quantize.statistics.observed import NotFinite, Observed
from edgemim.quantize.statistics.probe import Probe, build_probe
from edgemim.quantize.statistics.store import Statistics, load_statistics
from edgemim.quantize.statistics.tensor import Tensor
from edgemim.runtime.device import cpu_identity

Values = Mapping[str, npt.NDArray[np.float32]]

# So many images of work a kill costs at most.
_SAVE_EVERY = 32

_DIFFERENT = {
    "model": "another model",
    "preprocess": "another preprocessing",
    "tensors": "other tensors",
    "versions": "other package versions",
    "cpu": "another kind of CPU",
}


def collect(
    model: bytes | ir.Model,
    calibration: Calibration,
    tensors: Sequence[Tensor],
    *,
    workers: int | None = None,
    state: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Statistics:
    """Observe activations of a float model on all calibration images.

    Args:
        model: Float32, batch 1, fixed shapes; takes normalised images or uint8 pixels. Not changed.
        calibration: The images; at most `workers` + 1 of them have their activations in memory at a time.
        tensors: What is observed, each under a key of its own.
        workers: Threads that decode images and run the model, beside the one that counts; by default one per core,
            and fewer where the activations are large. One worker takes turns with the counting.
        state: File that the statistics so far are kept in. A later call with the same model, tensors and images
            goes on from there, also with more images that begin with the same ones; with anything else it starts
            anew, and says so in `Statistics.notes`.
        progress: Called with the images done and their number, after each.

    Raises:
        ConfigError: `workers` is below 1; no tensor, or two under one key.
        EdgemimError: An activation is not finite; names its module.
        DataError: An image cannot be read.
        ArtifactError: `state` is a file that holds no statistics.
        OutputError: `state` cannot be written.
        MissingDependencyError: onnxruntime is not installed.
        ValueError: A tensor names no float32 activation of the graph.
    """
    _check(tensors, workers)
    probe = build_probe(model, tensors, calibration.preprocess)
    hashes = calibration.hashes
    statistics = _begin(state, _setup(probe, calibration, tensors), hashes, tensors)
    total, done = len(hashes), len(statistics.images)
    threads = workers or usual_workers(probe.bytes_per_image)

    def run(position: int) -> Values:
        return probe.run(calibration.pixels(position))

    with contextlib.closing(in_order(run, range(done, total), threads)) as results:
        for values in results:
            _learn(statistics, values, tensors, probe, done)
            del values  # or it would stay while the next one is awaited
            done += 1
            if state is not None and (done % _SAVE_EVERY == 0 or done == total):
                replace(statistics, images=hashes[:done]).save(state)
            if progress is not None:
                progress(done, total)
    return replace(statistics, images=hashes)


def _check(tensors: Sequence[Tensor], workers: int | None) -> None:
    if workers is not None and workers < 1:
        raise ConfigError(f"workers must be at least 1; got {workers}")
    if not tensors:
        raise ConfigError("there is no tensor to observe")
    keys = [tensor.key for tensor in tensors]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise ConfigError(f"two tensors have the key {twice!r}; each needs its own")


def _setup(probe: Probe, calibration: Calibration, tensors: Sequence[Tensor]) -> dict[str, Any]:
    """Everything beside the images that the last bit of a statistic depends on, as JSON gives it back."""
    facts = {
        "model": probe.sha256,
        "preprocess": calibration.preprocess.to_dict(),
        "tensors": [[t.key, t.value, t.channel_axis, t.histogram] for t in tensors],
        "versions": {package: version(package) for package in ("onnxruntime", "pillow")},
        "cpu": cpu_identity(),
    }
    restored = json.loads(json.dumps(facts))
    assert isinstance(restored, dict)
    return restored


def _begin(
    state: Path | None, setup: Mapping[str, Any], hashes: Sequence[str], tensors: Sequence[Tensor]
) -> Statistics:
    """What an earlier call left in `state`, if it fits; else nothing seen yet."""
    notes: tuple[str, ...] = ()
    if state is not None and state.exists():
        found = load_statistics(state)
        difference = _difference(found, setup, hashes)
        if difference is None:
            return found
        notes = (f"{state} held statistics of {difference}; they were collected anew",)
    observed = {t.key: Observed.empty(histogram=t.histogram, channel_axis=t.channel_axis) for t in tensors}
    return Statistics(observed=observed, setup=setup, images=(), notes=notes)


def _difference(found: Statistics, setup: Mapping[str, Any], hashes: Sequence[str]) -> str | None:
    for name, words in _DIFFERENT.items():
        if found.setup.get(name) != setup[name]:
            return words
    return None if found.images == tuple(hashes[: len(found.images)]) else "other images"


def _learn(statistics: Statistics, values: Values, tensors: Sequence[Tensor], probe: Probe, position: int) -> None:
    for tensor in tensors:
        try:
            statistics[tensor.key].add(values[tensor.value])
        except NotFinite as error:
            raise EdgemimError(
                f"{probe.modules[tensor.value]} gives values that are not finite in fp32 "
                f"(calibration image {position}), so no range fits them; check the weights"
            ) from error
