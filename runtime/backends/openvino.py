"""OpenVINO on the CPU, tuned for the latency of one image at a time.

The ONNX file is read once and kept as OpenVINO's own IR, with the compiled blob beside it: what is loaded later
is neither parsed nor compiled again.

The precision hint is f32 unless the candidate says otherwise: by default OpenVINO computes an fp32 model in bf16
on CPUs that can, and a baseline would silently not be one. INT8 comes from the Q/DQ nodes of the graph, not
from a hint.

Source: https://docs.openvino.ai/2026/openvino-workflow/running-inference/inference-devices-and-modes/cpu-device.html

Needs: openvino; pip install 'edgemim[openvino]'
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgemim.runtime.backends import BACKENDS
from edgemim.runtime.backends._base import (
    NOT_LOADED,
    Arrays,
    Backend,
    Engine,
    Session,
    owned,
    require,
    vendor_failure,
    vendor_failures,
)
from edgemim.runtime.bundle import Bundle
from edgemim.runtime.cache import cached_build
from edgemim.runtime.candidates import Candidate
from edgemim.runtime.device import cpu_identity

_DEVICE = "CPU"
_IR = "model.xml"
_READ_BACK = (
    "INFERENCE_NUM_THREADS",
    "NUM_STREAMS",
    "INFERENCE_PRECISION_HINT",
    "ENABLE_CPU_PINNING",
    "SCHEDULING_CORE_TYPE",
    "ENABLE_HYPER_THREADING",
)


class OpenVinoBackend(Backend):
    """The CPU plugin: LATENCY hint, one stream, f32 by default, a fixed number of pinned threads, static shapes.

    Pinning and the kind of core are said, though they are the plugin's defaults: those differ by release and machine.
    """

    name: ClassVar[str] = "openvino"
    module: ClassVar[str] = "openvino"
    distributions: ClassVar[tuple[str, ...]] = ("openvino",)
    extra: ClassVar[str] = "openvino"
    processor: ClassVar[str] = "CPU"
    obeys_isa_cap: ClassVar[bool] = True

    def compile(self, bundle: Bundle, candidate: Candidate, cache: Path, threads: int) -> Engine:
        require(self)
        file = bundle.artifact.file(candidate.file)
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": True,
            "SCHEDULING_CORE_TYPE": "ANY_CORE",
            **candidate.options,
        }
        facts = {
            "model": bundle.artifact.files[candidate.file].sha256,
            "backend": self.name,
            "form": "IR and blob",
            "version": self.version(),
            "device": cpu_identity(),
            "options": options,
        }
        built = cached_build(cache, facts, lambda folder: _compile(file, options, folder), observe=_first_run)
        return Engine(
            backend=self.name,
            file=built.folder / _IR,
            options=options,
            folder=built.folder,
            compile_s=built.seconds,
            compiled_first_ms=built.observed["first_ms"],
            cached=built.cached,
        )

    def open(self, engine: Engine) -> Session:
        require(self)
        return OpenVinoSession(_load(engine.file, engine.options))


class OpenVinoSession(Session):
    """One compiled model and one synchronous infer request."""

    def __init__(self, compiled: Any) -> None:
        import openvino

        self._request = compiled.create_infer_request()
        self._outputs = {port.get_any_name(): port for port in compiled.outputs}
        self._kinds = {
            port.get_any_name(): (index, tuple(port.shape), port.element_type.to_dtype())
            for index, port in enumerate(compiled.inputs)
        }
        self._tensor = openvino.Tensor
        self._told = {name: _plain(compiled.get_property(name)) for name in _READ_BACK}
        self._shared: Arrays = {}

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        try:
            if self._share(inputs):
                results = self._request.infer()
            else:
                self._shared = {}
                results = self._request.infer(dict(inputs), share_inputs=True)
            return {name: owned(results[port]) for name, port in self._outputs.items()}
        except (RuntimeError, TypeError, ValueError) as error:
            raise vendor_failure("openvino", "run the model", error) from error

    def _share(self, inputs: Mapping[str, npt.NDArray[Any]]) -> bool:
        """Let the request read these arrays in place; False, and nothing done, if it must convert any of them.

        OpenVINO's own way from a dict of arrays to its tensors takes several times as long, and its plugin sets itself
        up anew for every tensor it is given. So an array that it reads already is not given to it again.
        """
        if inputs.keys() != self._kinds.keys():
            return False
        for name, array in inputs.items():
            _, shape, dtype = self._kinds[name]
            if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != dtype:
                return False
            if not (array.flags.c_contiguous and array.flags.writeable):
                return False
        for name, array in inputs.items():
            if self._shared.get(name) is not array:
                self._request.set_input_tensor(self._kinds[name][0], self._tensor(array, shared_memory=True))
                # The request does not own what it reads.
                self._shared[name] = array
        return True

    def facts(self) -> dict[str, Any]:
        """What the plugin made of the settings that decide where and how it computes."""
        return dict(self._told)

    def close(self) -> None:
        self._request = None
        self._outputs, self._shared = {}, {}


def _compile(file: Path, options: Mapping[str, Any], folder: Path) -> Any:
    """Read the ONNX file, write its IR into `folder`, and compile that, which leaves the blob there too."""
    with vendor_failures("openvino", f"compile {file.name}", RuntimeError, *NOT_LOADED):
        import openvino

        model = _core().read_model(str(file))
        if model.is_dynamic():
            raise RuntimeError("the model has dynamic shapes, an edge engine needs static ones")
        # By default the weights would be stored in half precision.
        openvino.save_model(model, folder / _IR, compress_to_fp16=False)
    return _load(folder / _IR, options)


def _load(ir: Path, options: Mapping[str, Any]) -> Any:
    """The compiled model of an IR, from the blob beside it if there is one."""
    with vendor_failures("openvino", f"compile {ir.name}", RuntimeError, *NOT_LOADED):
        settings = {**options, "CACHE_DIR": str(ir.parent), "LOG_LEVEL": "LOG_NONE"}
        # From the file rather than a model in memory: only so is the IR not even read where there is a blob.
        return _core().compile_model(str(ir), _DEVICE, settings)


def _plain(value: Any) -> Any:
    """A property as JSON has it: a type or an enumeration by its name."""
    if hasattr(value, "get_type_name"):
        return value.get_type_name()
    return getattr(value, "name", value)


def _first_run(compiled: Any) -> dict[str, float]:
    """Milliseconds of one run on zeros, the first after the compilation."""
    shape, dtype = tuple(compiled.input(0).shape), compiled.input(0).element_type.to_dtype()
    request = compiled.create_infer_request()
    with vendor_failures("openvino", "run the model", RuntimeError):
        started = time.perf_counter_ns()
        request.infer([np.zeros(shape, dtype)])
    return {"first_ms": (time.perf_counter_ns() - started) / 1e6}


@functools.cache
def _core() -> Any:
    """The one Core of this process.

    The CPU plugin sets a signal stack per Core; when two live at once the wrong one is put back, and the next
    signal, such as Ctrl-C, ends the process with a segmentation fault.
    """
    import openvino

    return openvino.Core()


BACKENDS.add("openvino", OpenVinoBackend)
