"""How much each unit costs: it alone in INT8, and everything but it.

    found = measure_sensitivity(fp32, recipe, target, images)
    found.ranked()[0].unit        # what hurts most: the first to leave in float

Enable-one shows what a unit does by itself; disable-one shows what leaving it out would give back, errors of other
units included. Both are computed as the graph says, every Q and DQ on its own in float, so that the answer is about
the model and not about the INT8 kernels of the machine that computes it.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edgemim.artifact import write_text
from edgemim.errors import ConfigError, MissingDependencyError
from edgemim.quantize.recipe import Recipe, quantize_model
from edgemim.quantize.sites import Unit
from edgemim.runtime.targets._base import Target

Floats = npt.NDArray[np.float32]

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Damage:
    """What quantization does to the model's outputs, over all images.

    Attributes:
        noise: Energy of the error over energy of the fp32 outputs, each image's outputs taken around their mean,
            since a constant added to all of them changes nothing that an argmax or a softmax sees.
        cosine: Mean cosine of an image's outputs with fp32's.
        agreement: Share of images with the same largest output; None for an embedding.
    """

    noise: float
    cosine: float
    agreement: float | None


@dataclass(frozen=True, kw_only=True)
class UnitDamage:
    """One unit: alone in INT8 (`enabled`), and in float while all others are INT8 (`disabled`)."""

    unit: str
    kind: str
    block: str
    enabled: Damage
    disabled: Damage


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """Every unit of a recipe, in the graph's order.

    Attributes:
        units: One entry each.
        everything: All units in INT8.
        images: How many images it was measured on.
    """

    placement: str
    units: tuple[UnitDamage, ...]
    everything: Damage
    images: int

    def ranked(self) -> list[UnitDamage]:
        """Those whose return to float helps most, first."""
        return sorted(self.units, key=lambda entry: (entry.disabled.noise, -entry.enabled.noise))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self), "units": [asdict(entry) for entry in self.units]}


def measure_sensitivity(
    model: onnx.ModelProto,
    recipe: Recipe,
    target: Target,
    images: Sequence[Floats],
    *,
    classifies: bool,
    workers: int = 1,
    state: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Sensitivity:
    """Measure every unit of a recipe.

    Args:
        model: The fp32 flavour.
        recipe: Units that it leaves out already stay in float throughout.
        target: Whose integer types hold.
        images: float32 [1, 3, H, W] each; a few dozen are enough, since outputs are compared and not labels.
        classifies: Whether the outputs are class scores.
        workers: Variants that run side by side, a thread each; the result does not depend on it.
        state: Variants that are done are kept in this file, and a later call with the same arguments goes on there.
        progress: Called with (variants done, variants in all).

    Raises:
        ConfigError: No image, or nothing that could become INT8.
        MissingDependencyError: onnxruntime is not installed.
    """
    if not images:
        raise ConfigError("a sensitivity needs at least one image; give a data set that has some")
    _, units = quantize_model(model, recipe, target)
    if not units:
        raise ConfigError(f"placement {recipe.placement!r} leaves this model in float: there is nothing to measure")
    names = [unit.name for unit in units]
    variants: dict[str, tuple[str, ...]] = {"everything": ()}
    for name in names:
        variants[f"enable {name}"] = tuple(other for other in names if other != name)
        variants[f"disable {name}"] = (name,)
    store = _Store(state, _fingerprint(model, recipe, target, images))
    reference = _outputs(model.SerializeToString(), images)
    missing = [key for key in variants if key not in store.done]

    def run(key: str) -> tuple[str, Damage]:
        variant, _ = quantize_model(model, recipe.without(*variants[key]), target)
        return key, damage(_outputs(variant.SerializeToString(), images), reference, classifies=classifies)

    with ThreadPoolExecutor(max_workers=workers) as pool:
        for key, found in pool.map(run, missing):
            store.add(key, found)
            if progress is not None:
                progress(len(store.done), len(variants))
    return _collect(recipe, units, store, len(images))


def damage(outputs: Floats, reference: Floats, *, classifies: bool) -> Damage:
    """Compare outputs [N, K] with fp32's on the same images."""
    ours, theirs = outputs.astype(np.float64), reference.astype(np.float64)
    error = _centred(ours - theirs)
    energy = float((_centred(theirs) ** 2).sum())
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosines = (ours * theirs).sum(axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny)
    same = ours.argmax(axis=1) == theirs.argmax(axis=1)
    return Damage(
        noise=float((error**2).sum()) / max(energy, np.finfo(np.float64).tiny),
        cosine=float(cosines.mean()),
        agreement=float(same.mean()) if classifies else None,
    )


def _fingerprint(model: onnx.ModelProto, recipe: Recipe, target: Target, images: Sequence[Floats]) -> str:
    """What the damages follow from."""
    digest = hashlib.sha256(model.SerializeToString(deterministic=True))
    settings = {"recipe": recipe.to_dict(), "integers": list(target.activation_dtypes), "schema": SCHEMA_VERSION}
    digest.update(json.dumps(settings, sort_keys=True).encode())
    for image in images:
        digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()


def _centred(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    centred: npt.NDArray[np.float64] = values - values.mean(axis=1, keepdims=True)
    return centred


def _collect(recipe: Recipe, units: Sequence[Unit], store: _Store, images: int) -> Sensitivity:
    entries = tuple(
        UnitDamage(
            unit=unit.name,
            kind=unit.kind,
            block=unit.block,
            enabled=store.done[f"enable {unit.name}"],
            disabled=store.done[f"disable {unit.name}"],
        )
        for unit in units
    )
    return Sensitivity(placement=recipe.placement, units=entries, everything=store.done["everything"], images=images)


def _outputs(model: bytes, images: Sequence[Floats]) -> Floats:
    """First output of a model on each image, [N, K], every node computed as it stands in the graph."""
    try:
        runtime = importlib.import_module("onnxruntime")
    except ModuleNotFoundError as error:
        raise MissingDependencyError("the sensitivity", "onnxruntime", "export") from error
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: image})[0] for image in images])


class _Store:
    """Damages by variant, in memory and, if wanted, in a file that a later call goes on with."""

    def __init__(self, path: Path | None, key: str) -> None:
        self._path, self._key = path, key
        self.done: dict[str, Damage] = {}
        if path is not None and path.is_file():
            content = json.loads(path.read_text("utf-8"))
            # Measured on something else: it is measured again.
            if content.get("key") == key:
                self.done = {name: Damage(**values) for name, values in content["done"].items()}

    def add(self, name: str, found: Damage) -> None:
        self.done[name] = found
        if self._path is not None:
            content = {"key": self._key, "done": {key: asdict(value) for key, value in self.done.items()}}
            write_text(self._path, json.dumps(content) + "\n")
