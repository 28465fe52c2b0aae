"""Values of the shapes that activations have, and what is observed of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from edgemim.quantize.statistics.observed import Observed

COUNT = 40_000


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Float32 values and their statistics."""

    values: npt.NDArray[np.float32]
    observed: Observed

    @property
    def magnitudes(self) -> npt.NDArray[np.float64]:
        """|x|, ascending."""
        return np.sort(np.abs(self.values.astype(np.float64)))


def _normal(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    return rng.standard_normal(COUNT)


def _laplace(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    return rng.laplace(scale=0.03, size=COUNT)


def _heavy(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    return rng.standard_t(3, COUNT) * 50


def _uniform(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    return rng.uniform(-2, 2, COUNT)


def _relu(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    return np.maximum(rng.standard_normal(COUNT), 0)


def _gelu(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    x = rng.standard_normal(COUNT) * 1.5
    return np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x])


def _softmax(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    scores = np.exp(rng.standard_normal((COUNT // 200, 200)) * 2)
    return np.asarray(scores / scores.sum(axis=1, keepdims=True)).ravel()


def _outlier(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    return np.append(rng.standard_normal(COUNT), 60.0)


def _two_values(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    return np.where(rng.random(COUNT) < 0.01, 1.0, 0.01)


def _constant(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    return np.full(COUNT, -3.7)


SHAPES: dict[str, Callable[[np.random.Generator], npt.NDArray[np.float64]]] = {
    "normal": _normal,
    "laplace": _laplace,
    "heavy": _heavy,
    "uniform": _uniform,
    "relu": _relu,
    "gelu": _gelu,
    "softmax": _softmax,
    "outlier": _outlier,
    "two-values": _two_values,
    "constant": _constant,
}


def make_sample(values: npt.ArrayLike) -> Sample:
    array = np.asarray(values, dtype=np.float32)
    observed = Observed.empty()
    observed.add(array)
    return Sample(values=array, observed=observed)


@pytest.fixture(scope="session")
def sample_of() -> Callable[[npt.ArrayLike], Sample]:
    return make_sample


@pytest.fixture(scope="session", params=SHAPES)
def sample(request: pytest.FixtureRequest) -> Sample:
    """One of each shape."""
    return make_sample(SHAPES[request.param](np.random.default_rng(0)))


@pytest.fixture(scope="session")
def samples() -> dict[str, Sample]:
    """All of them, by name."""
    return {name: make_sample(make(np.random.default_rng(0))) for name, make in SHAPES.items()}
