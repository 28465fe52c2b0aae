"""Run a model with some of its taps looked at: the torch model through hooks, an ONNX graph through more outputs.

One image at a time, and only the taps that are asked for: what is kept does not grow with the model. An ONNX graph
runs node by node, without ONNX Runtime's fusions, and what it says is float16 is rounded to float16. So a tap changes
no kernel, and a flavour computes what its casts and its QuantizeLinear and DequantizeLinear say, not what the kernels
of this machine make of them.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import torch

from edgemim.errors import MissingDependencyError
from edgemim.export.ladder.taps import Tap
from edgemim.export.parity import Floats, open_session
from edgemim.export.rounding import round_every_value
from edgemim.preprocess import Pixels
from edgemim.runtime.backends._base import vendor_failures
from edgemim.runtime.backends.onnxruntime import int8_settings
from edgemim.runtime.device import cpu_identity

Array = npt.NDArray[Any]
Outputs = dict[str, Array]


@dataclass(frozen=True, kw_only=True)
class Golden:
    """Images in both forms that a graph may take.

    Attributes:
        images: float32 [G, 3, H, W], normalised.
        pixels: uint8 [G, H, W, 3], the same before; None where no graph takes pixels.
    """

    images: Floats
    pixels: Pixels | None = None

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, index: int, size: int, dtype: str = "tensor(float)") -> Array:
        """One image, repeated to fill a fixed batch, as an input of this ONNX type takes it."""
        if dtype == "tensor(uint8)":
            assert self.pixels is not None
            return np.repeat(self.pixels[index : index + 1], size, axis=0)
        kind = np.float16 if dtype == "tensor(float16)" else np.float32
        return np.repeat(self.images[index : index + 1], size, axis=0).astype(kind, copy=False)


class Rung(ABC):
    """A model that can be run with taps.

    Attributes:
        name: For the user: `torch`, `fp32`, `int8-nncf`.
    """

    name: str

    @abstractmethod
    def having(self, taps: Sequence[Tap]) -> list[Tap]:
        """Those of some taps that this model has, with the same shape."""

    @abstractmethod
    def run(self, taps: Sequence[Tap], index: int) -> tuple[Outputs, Array]:
        """The values of taps by their names, and the model's first output, for one golden image.

        Raises:
            DeviceError: The runtime cannot run the model.
        """


class TorchRung(Rung):
    """A torch model in eval mode, on the CPU, that takes `batch` images at a time."""

    name = "torch"

    def __init__(self, model: torch.nn.Module, golden: Golden, batch: int) -> None:
        self._model, self._golden, self._batch = model, golden, batch

    def having(self, taps: Sequence[Tap]) -> list[Tap]:
        """None of a module that runs more than once, or returns more than one tensor."""
        shapes: dict[str, tuple[int, ...]] = {}
        calls: Counter[str] = Counter()

        def note(name: str, value: torch.Tensor) -> None:
            shapes[name] = tuple(value.shape)
            calls[name] += 1

        self._forward(taps, 0, note)
        return [tap for tap in taps if calls[tap.name] == 1 and shapes[tap.name] == tap.shape]

    def run(self, taps: Sequence[Tap], index: int) -> tuple[Outputs, Array]:
        found: Outputs = {}

        def keep(name: str, value: torch.Tensor) -> None:
            # A copy, since a later layer may work in place.
            found[name] = value.clone().numpy()

        output = self._forward(taps, index, keep)
        return found, output.numpy()

    def _forward(self, taps: Sequence[Tap], index: int, keep: Callable[[str, torch.Tensor], None]) -> torch.Tensor:
        modules = dict(self._model.named_modules())
        hooks = []
        for tap in taps:
            if tap.reader in modules and tap.reader:
                hooks.append(modules[tap.reader].register_forward_pre_hook(_keep_input(tap.name, keep)))
            elif tap.module in modules and not tap.reader:
                hooks.append(modules[tap.module].register_forward_hook(_keep_output(tap.name, keep)))
        try:
            # Not inference_mode: some models cache a table at their first run, and could not be traced with it.
            with torch.no_grad():
                output: torch.Tensor = self._model(torch.from_numpy(self._golden.batch(index, self._batch)))
        finally:
            for hook in hooks:
                hook.remove()
        return output


class OnnxRung(Rung):
    """An ONNX graph in ONNX Runtime on the CPU, node by node.

    Attributes:
        precision: `fp32`, `fp16`, `bf16` or `int8`, as the graph carries it.
    """

    def __init__(self, name: str, precision: str, source: Path | onnx.ModelProto, golden: Golden) -> None:
        self.name, self.precision = name, precision
        self._source, self._golden = source, golden
        self._open: tuple[tuple[str, ...], Any] | None = None

    def graph(self) -> ir.Model:
        """The graph that is tapped."""
        return ir.from_proto(self._proto())

    def batch(self) -> int:
        """Images that the graph takes at a time."""
        shape = self.graph().graph.inputs[0].shape
        assert shape is not None
        return int(shape.numpy()[0])

    def having(self, taps: Sequence[Tap]) -> list[Tap]:
        return list(taps)

    def run(self, taps: Sequence[Tap], index: int) -> tuple[Outputs, Array]:
        session = self._session(tuple(tap.value for tap in taps))
        with vendor_failures("onnxruntime", f"run {self.name}", *_failures()):
            output, *values = self._call(session, index, [session.get_outputs()[0].name, *(t.value for t in taps)])
        return {tap.name: value for tap, value in zip(taps, values, strict=True)}, output

    def run_fused(self) -> list[Array]:
        """The first output for every golden image, from an untapped session with all of ONNX Runtime's fusions.

        For INT8 with the settings under which the runtime measures it.
        """
        entries = int8_settings(cpu_identity()["isa"]) if self.precision == "int8" else {}
        source = self._source if isinstance(self._source, Path) else self._source.SerializeToString()
        with vendor_failures("onnxruntime", f"run {self.name}", *_failures()):
            session = open_session(source, entries=entries)
            name = session.get_outputs()[0].name
            return [self._call(session, index, [name])[0] for index in range(len(self._golden))]

    def close(self) -> None:
        """Free the session."""
        self._open = None

    def _proto(self) -> onnx.ModelProto:
        """The graph that is tapped; a file is read again every time, so that its weights are not kept."""
        proto = onnx.load(self._source) if isinstance(self._source, Path) else self._source
        if any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in proto.graph.initializer):
            return ir.to_proto(round_every_value(ir.from_proto(proto)))
        return proto

    def _call(self, session: Any, index: int, names: Sequence[str]) -> list[Array]:
        source = session.get_inputs()[0]
        images = self._golden.batch(index, source.shape[0], source.type)
        found: list[Array] = session.run(list(names), {source.name: images})
        return found

    def _session(self, values: tuple[str, ...]) -> Any:
        """A session with these values as outputs; it is kept for the next image, the one before is freed first."""
        if self._open is None or self._open[0] != values:
            self._open = None
            with vendor_failures("onnxruntime", f"load {self.name}", *_failures()):
                self._open = values, open_session(_with_outputs(self._proto(), values), optimised=False)
        return self._open[1]


def _keep_output(name: str, keep: Callable[[str, torch.Tensor], None]) -> Callable[..., None]:
    def hook(_module: torch.nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, torch.Tensor):
            keep(name, output)

    return hook


def _keep_input(name: str, keep: Callable[[str, torch.Tensor], None]) -> Callable[..., None]:
    def hook(_module: torch.nn.Module, inputs: tuple[object, ...]) -> None:
        if inputs and isinstance(inputs[0], torch.Tensor):
            keep(name, inputs[0])

    return hook


def _with_outputs(model: onnx.ModelProto, values: Sequence[str]) -> bytes:
    """The model with further outputs, behind its own."""
    own = [output.name for output in model.graph.output]
    added = [value for value in dict.fromkeys(values) if value not in own]
    for value in added:
        model.graph.output.add(name=value)
    serialized = bytes(model.SerializeToString())
    # The model may be the caller's.
    del model.graph.output[len(own) :]
    return serialized


def _failures() -> tuple[type[Exception], ...]:
    """ONNX Runtime's exceptions have no common base class below Exception.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
    """
    try:
        state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    except ModuleNotFoundError as error:
        raise MissingDependencyError("the parity ladder", "onnxruntime", "export") from error
    own = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*own, RuntimeError, ValueError)
