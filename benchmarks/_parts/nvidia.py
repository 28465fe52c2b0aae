"""NVIDIA's own parser and builder, on a machine without a GPU: TensorRT for RTX builds for a GPU that is not there.

It tells whether a graph parses, and into how many kernels it is built; it cannot run them. SM86 is the nearest to a
Jetson Orin (SM87, the same family) that it builds for.

Needs: tensorrt_rtx; pip install 'edgemim[rtx]' (x86-64 Linux)
"""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import onnx

from edgemim.errors import MissingDependencyError

_MODULE = "tensorrt_rtx"
_CAPABILITY = "SM86"
_LONGEST_REASON = 300


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What NVIDIA's parser and builder made of a graph.

    Attributes:
        parsed, built: How far it came.
        kernels: That one inference launches; None where nothing was built.
        cpu_seconds: Of parsing and building.
        reason: Why it came no further, in one line.
    """

    parsed: bool
    built: bool
    kernels: int | None
    cpu_seconds: float
    reason: str | None


def is_installed() -> bool:
    """Nothing is imported."""
    return find_spec(_MODULE) is not None


def version() -> str:
    """Of TensorRT for RTX."""
    return str(_package().__version__)


def judge(model: bytes) -> Verdict:
    """Parse a strongly typed network, and build it for SM86.

    Args:
        model: An ONNX file's bytes, weights included.

    Raises:
        MissingDependencyError: tensorrt_rtx is not installed.
    """
    trt, logger = _package(), _logger()
    started = time.process_time()
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)

    def verdict(*, parsed: bool, kernels: int | None = None, reason: str | None = None) -> Verdict:
        seconds = round(time.process_time() - started, 1)
        return Verdict(parsed=parsed, built=kernels is not None, kernels=kernels, cpu_seconds=seconds, reason=reason)

    if not parser.parse(model):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        reasons = dict.fromkeys(_refusal(error, model) for error in errors)
        return verdict(parsed=False, reason="; ".join(reasons) or "no reason given")
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, _CAPABILITY), 0)
    # At this level the builder lists its kernels in the log: the plan itself is not readable without a GPU.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    logger.clear()
    if builder.build_serialized_network(network, config) is None:
        return verdict(parsed=True, reason=f"cannot be built for {_CAPABILITY}: {_one_line(logger.errors())}")
    return verdict(parsed=True, kernels=_count_kernels(logger.messages))


def _refusal(error: Any, model: bytes) -> str:
    operator, name = error.node_operator(), error.node_name()
    nodes = {node.name: node for node in onnx.load_from_string(model).graph.node}
    properties = {p.key: p.value for p in nodes[name].metadata_props} if name in nodes else {}
    where = f"module {properties['edgemim.module']!r}" if "edgemim.module" in properties else f"node {name!r}"
    return f"op {operator!r} of {where} is refused: {error.code().name}, {_one_line(error.desc())}"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_LONGEST_REASON]


def _count_kernels(messages: list[str]) -> int:
    (listing,) = (message for message in messages if message.startswith("Layers:"))
    return sum(line.startswith("Name: ") for line in listing.splitlines())


def _package() -> Any:
    if not is_installed():
        raise MissingDependencyError("NVIDIA's parser", _MODULE, "rtx")
    return importlib.import_module(_MODULE)


@cache
def _logger() -> Any:
    """The one logger of this process: NVIDIA's library keeps the first that it is given."""
    trt = _package()

    class Logger(trt.ILogger):  # type: ignore[name-defined]
        """Keeps what is said."""

        def __init__(self) -> None:
            super().__init__()
            self.messages: list[str] = []
            self._errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            self.messages.append(message)
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self._errors.append(message)

        def clear(self) -> None:
            self.messages.clear()
            self._errors.clear()

        def errors(self) -> str:
            return " ".join(self._errors) or "no reason given"

    return Logger()
