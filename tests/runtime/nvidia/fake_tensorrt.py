"""Fake TensorRT packages: each has exactly the names that the Python API of one version has, and no more.

`api_names.json` holds those names, read from the sources of the bindings (NVIDIA/TensorRT, python/src at the tags) and
from tensorrt_rtx itself. What lies behind a name is ours: a "parser" that reads the file with onnx, a "builder" that
stores it in the plan, an "engine" that computes it with onnx's reference. So the whole path of edgemim runs against
every version, and a name that a version lacks is an AttributeError as there. The fakes prove that, and nothing about
TensorRT's kernels, speed or limits.
"""

from __future__ import annotations

import ctypes
import enum
import json
from functools import cached_property
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from tests.runtime.nvidia.fake_cudart import FakeCudart

API: dict[str, Any] = json.loads(Path(__file__).with_name("api_names.json").read_text("utf-8"))
VERSIONS = tuple(API)
SUPPORTED = tuple(version for version in VERSIONS if version != "8.5.3")
UNKNOWN_OPERATOR = "NotAnOperator"
_DTYPES = {1: "FLOAT", 2: "UINT8", 3: "INT8", 6: "INT32", 7: "INT64", 10: "HALF"}
_NUMPY = {"FLOAT": "float32", "UINT8": "uint8", "INT8": "int8", "INT32": "int32", "INT64": "int64", "HALF": "float16"}


def fake_tensorrt(version: str, cuda: FakeCudart) -> ModuleType:
    """A package of that version whose engines run on the fake GPU.

    `behaviour` on it says what goes wrong: `build` (the error that the builder logs instead of building), `wrong` (the
    engines compute something else), `capture` (False: running cannot be recorded), `crash` (an exception).
    """
    name = "tensorrt_rtx" if version.startswith("rtx") else "tensorrt"
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    module.__version__ = version.removeprefix("rtx-")  # type: ignore[attr-defined]
    for enum_name, members in API[version]["enums"].items():
        setattr(module, enum_name, enum.IntEnum(enum_name, members))
    module.behaviour = SimpleNamespace(build=None, wrong=False, capture=True, crash=None)  # type: ignore[attr-defined]
    module.built = []  # type: ignore[attr-defined]
    module.cuda = cuda  # type: ignore[attr-defined]
    for class_name, names in API[version]["classes"].items():
        setattr(module, class_name, _class(module, class_name, names))
    return module


def _class(module: ModuleType, name: str, names: list[str]) -> type:
    """The class of that name, with these names and what stands behind those of them that edgemim uses."""
    behind = {key: value for key, value in vars(_BEHIND.get(name, object)).items() if not key.startswith("__")}
    init = vars(_BEHIND.get(name, object)).get("__init__")

    def refuse(self: Any, key: str, value: Any) -> None:
        # A class of pybind11 takes no attribute that it does not declare.
        if key not in names and not key.startswith("_"):
            raise AttributeError(f"{name!r} object has no attribute {key!r}")
        object.__setattr__(self, key, value)

    body: dict[str, Any] = {key: _Unexpected(key) for key in names}
    body |= {key: value for key, value in behind.items() if key in names or key.startswith("_")}
    body |= {"__setattr__": refuse, "_trt": module}
    if init is not None:
        body["__init__"] = init
    if name == "IHostMemory":
        body["__bytes__"] = _Memory.__bytes__
    if "num_bindings" in names:
        # Version 8 counts its bindings: an engine is not to be asked whether it is true.
        body["__len__"] = lambda self: 0
    return type(name, (), body)


class _Unexpected:
    """A name that is there, and that edgemim is not expected to use."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *arguments: Any) -> Any:
        raise AssertionError(f"the fake has no behaviour for {self.name}")


class _Memory:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def __bytes__(self) -> bytes:
        return self._data


class _Logger:
    Severity = enum.IntEnum("Severity", {"INTERNAL_ERROR": 0, "ERROR": 1, "WARNING": 2, "INFO": 3, "VERBOSE": 4})
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = Severity

    def log(self, severity: Any, message: str) -> None:
        raise NotImplementedError


class _Tensor:
    def __init__(self, name: str, shape: tuple[int, ...], dtype: Any) -> None:
        self.name, self.shape, self.dtype = name, shape, dtype


class _Network:
    def __init__(self, flags: int) -> None:
        self._flags, self._inputs, self._onnx = flags, [], None

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    def get_input(self, index: int) -> Any:
        return self._inputs[index]


class _Parser:
    def __init__(self, network: Any, logger: Any) -> None:
        assert isinstance(logger, self._trt.ILogger)
        self._network, self._logger, self._errors = network, logger, []

    def parse_from_file(self, model: str) -> bool:
        import onnx

        loaded = onnx.load(model)
        self._logger.log(self._logger.Severity.VERBOSE, "parsing")
        for index, node in enumerate(loaded.graph.node):
            if node.op_type == UNKNOWN_OPERATOR:
                self._errors.append(self._trt.ParserError(index, node.name, node.op_type))
        self._network._onnx = loaded
        self._network._inputs = [_io(self._trt, value) for value in loaded.graph.input]
        return not self._errors

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return self._errors[index]


class _ParserError:
    def __init__(self, index: int, name: str, operator: str) -> None:
        self._index, self._name, self._operator = index, name, operator

    def code(self) -> Any:
        return self._trt.ErrorCode.UNSUPPORTED_NODE

    def desc(self) -> str:
        return "Plugin not found,\n are the plugin name and version correct?"

    def node(self) -> int:
        return self._index

    def node_name(self) -> str:
        return self._name

    def node_operator(self) -> str:
        return self._operator


class _Config:
    def __init__(self) -> None:
        self._set: set[str] = {"TF32"}
        self._pools: dict[Any, int] = {}
        self._cache: Any = None
        self._capabilities: list[Any] = []

    builder_optimization_level = 3
    profiling_verbosity = None
    num_compute_capabilities = 0

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self._pools[pool] = size

    def set_flag(self, flag: Any) -> None:
        assert flag in self._trt.BuilderFlag
        self._set.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self._set.discard(flag.name)

    def set_compute_capability(self, capability: Any, index: int) -> bool:
        self._capabilities.append(capability)
        return True

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
        cache = self._trt.ITimingCache()
        cache._data = bytes(serialized_timing_cache)
        return cache

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        ours = f"timings of {self._trt.__version__}".encode()
        if cache._data and not cache._data.startswith(ours):
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._cache


class _TimingCache:
    def serialize(self) -> Any:
        return self._trt.IHostMemory(self._data)


class _Builder:
    def __init__(self, logger: Any) -> None:
        assert isinstance(logger, self._trt.ILogger)
        self._logger = logger

    def create_network(self, flags: int = 0) -> Any:
        known = {1 << int(flag) for flag in self._trt.NetworkDefinitionCreationFlag}
        assert flags in known | {0}, "a flag that this version does not have"
        explicit = self._trt.NetworkDefinitionCreationFlag.__members__.get("EXPLICIT_BATCH")
        typed = "STRONGLY_TYPED" in self._trt.NetworkDefinitionCreationFlag.__members__
        assert typed or flags == 1 << int(explicit), "the ONNX parser takes networks of explicit batch alone"
        return self._trt.INetworkDefinition(flags)

    def create_builder_config(self) -> Any:
        return self._trt.IBuilderConfig()

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        trt, log, behaviour = self._trt, self._logger.log, self._trt.behaviour
        trt.built.append((network, config))
        log(self._logger.Severity.INFO, "[GraphReduction] building")
        if behaviour.crash is not None:
            raise behaviour.crash
        operators = {node.op_type for node in network._onnx.graph.node}
        trouble = behaviour.build
        if "FP16" in trt.BuilderFlag.__members__ and not _is_typed(trt, network):
            if "QuantizeLinear" in operators and "INT8" not in config._set:
                trouble = "Networks with Q/DQ need the INT8 flag"
        elif config._set & {"FP16", "INT8"}:
            trouble = "a strongly typed network takes no precision flags"
        if trouble is not None:
            log(self._logger.Severity.ERROR, trouble)
            return None
        if config._cache is not None:
            config._cache._data = f"timings of {trt.__version__}, {len(trt.built)} builds".encode()
        header = json.dumps({"version": trt.__version__, "gpu": trt.cuda.name})
        return trt.IHostMemory(header.encode() + b"\n" + network._onnx.SerializeToString())


def _is_typed(trt: Any, network: Any) -> bool:
    flag = trt.NetworkDefinitionCreationFlag.__members__.get("STRONGLY_TYPED")
    return flag is not None and bool(network._flags & 1 << int(flag))


class _Runtime:
    def __init__(self, logger: Any) -> None:
        assert isinstance(logger, self._trt.ILogger)
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
        import onnx

        header, _, model = bytes(serialized_engine).partition(b"\n")
        try:
            same = json.loads(header) == {"version": self._trt.__version__, "gpu": self._trt.cuda.name}
        except ValueError:
            same = False
        if not same:
            self._logger.log(self._logger.Severity.ERROR, "Serialization assertion stdVersionRead == failed. Mismatch")
            return None
        return self._trt.ICudaEngine(onnx.load_from_string(model), self._logger)


class _Engine:
    def __init__(self, model: Any, logger: Any) -> None:
        self._model, self._logger = model, logger
        inputs = [(_io(self._trt, v), True) for v in model.graph.input]
        self._tensors = {t.name: (t, i) for t, i in inputs + [(_io(self._trt, v), False) for v in model.graph.output]}

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        modes = self._trt.TensorIOMode
        return modes.INPUT if self._tensors[name][1] else modes.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return self._tensors[name][0].dtype

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name][0].shape

    def create_engine_inspector(self) -> Any:
        return self._trt.EngineInspector(self)

    def create_execution_context(self) -> Any:
        return self._trt.IExecutionContext(self)


class _Inspector:
    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def get_engine_information(self, format: Any) -> str:  # noqa: A002  (the binding's own name)
        assert format is self._trt.LayerInformationFormat.JSON
        layers = [{"Name": n.name, "LayerType": n.op_type, "Inputs": []} for n in self._engine._model.graph.node]
        return json.dumps({"Layers": layers})


class _Context:
    def __init__(self, engine: Any) -> None:
        self._engine, self._addresses = engine, {}

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        trt, cuda = self._trt, self._trt.cuda
        if cuda.recording.get(stream_handle) is not None and not trt.behaviour.capture:
            self._engine._logger.log(self._engine._logger.Severity.ERROR, "this network cannot be captured")
            return False
        cuda.execute(stream_handle, self._compute)
        return True

    def _compute(self) -> None:
        engine = self._engine
        arrays = {name: _at(address, engine._tensors[name][0]) for name, address in self._addresses.items()}
        inputs = {name: arrays[name].copy() for name, (_, is_input) in engine._tensors.items() if is_input}
        names = [name for name, (_, is_input) in engine._tensors.items() if not is_input]
        for name, result in zip(names, self._evaluator.run(None, inputs), strict=True):
            arrays[name][...] = -result if self._trt.behaviour.wrong else result

    @cached_property
    def _evaluator(self) -> Any:
        from onnx.reference import ReferenceEvaluator

        # onnx's reference has DequantizeLinear from 19 on; the operators used here mean the same in both.
        self._engine._model.opset_import[0].version = 20
        return ReferenceEvaluator(self._engine._model)


def _io(trt: Any, value: Any) -> Any:
    kind = value.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)
    return trt.ITensor(value.name, shape, getattr(trt.DataType, _DTYPES[kind.elem_type]))


def _at(address: int, tensor: Any) -> np.ndarray:
    dtype = np.dtype(_NUMPY[tensor.dtype.name])
    size = int(np.prod(tensor.shape)) * dtype.itemsize
    return np.frombuffer((ctypes.c_byte * size).from_address(address), dtype).reshape(tensor.shape)


_BEHIND: dict[str, type] = {
    "ILogger": _Logger,
    "Builder": _Builder,
    "INetworkDefinition": _Network,
    "ITensor": _Tensor,
    "IBuilderConfig": _Config,
    "OnnxParser": _Parser,
    "ParserError": _ParserError,
    "Runtime": _Runtime,
    "ICudaEngine": _Engine,
    "IExecutionContext": _Context,
    "EngineInspector": _Inspector,
    "ITimingCache": _TimingCache,
    "IHostMemory": _Memory,
}
