"""`edgemim.runtime.nvidia.inspection`: the JSON of the engine inspector, written after that of three versions."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from edgemim.runtime.nvidia.inspection import inspect_engine
from edgemim.runtime.nvidia.library import Library

INT8_8 = "Thirty-two wide channel vectorized row major Int8 format"
HALF_8 = "Row major linear FP16 format"


def layer(name: str, kind: str, *inputs: dict[str, str], tactic: str = "") -> dict[str, Any]:
    return {"Name": name, "LayerType": kind, "Inputs": list(inputs), "Outputs": [], "TacticName": tactic}


# The same four layers as versions 8 and 10, and as version 11 tells them.
OLD = [
    layer("Reformatting CopyNode for Input", "Reformat", {"Format/Datatype": INT8_8}),
    layer("/blocks.0/attn/qkv", "CaskGemmConvolution", {"Format/Datatype": INT8_8}),
    layer("__myl_MulSof_myl0_1", "kgen", {"Format/Datatype": HALF_8}),
    layer("_gemm_mha_v2_myl0_2", "kgen", {"Format/Datatype": "Int8"}, {"Format/Datatype": "Int8"}),
]
NEW = [
    layer("Reformat", "Reformat", {"Format": "Row major linear", "Datatype": "Int8"}),
    layer("qkv", "gemm", {"Format": "Row major linear", "Datatype": "Int8"}),
    layer("Sof", "kgen", {"Format": "Row major linear", "Datatype": "Half"}),
    layer("attention", "kgen", {"Format": "N/A", "Datatype": "Int8"}, tactic="_gemm_mha_v2_0x7b"),
]


def inspect(information: str | None) -> dict[str, int] | None:
    """Through an engine whose inspector says this; None: it has none."""
    module = SimpleNamespace(LayerInformationFormat=SimpleNamespace(JSON="json"))
    inspector = None if information is None else SimpleNamespace(get_engine_information=lambda _: information)
    engine = SimpleNamespace(create_engine_inspector=lambda: inspector)
    return inspect_engine(Library(name="tensorrt", module=module), engine)


@pytest.mark.parametrize(
    "information",
    [{"Layers": OLD, "Bindings": ["images", "logits"]}, {"Layers": NEW, "I/O Tensors": [{"Name": "images"}]}],
    ids=["8 to 10", "11"],
)
def test_layers_are_counted_whatever_the_version_calls_them(information: dict[str, Any]) -> None:
    assert inspect(json.dumps(information)) == {"layers": 4, "int8": 2, "attentions": 1, "moves": 1}


@pytest.mark.parametrize("information", [None, "", "[]", "{}", '{"Layers": []}', '{"Layers": ["qkv", "proj"]}'])
def test_without_details_nothing_is_counted(information: str | None) -> None:
    assert inspect(information) is None
