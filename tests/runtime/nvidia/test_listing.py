"""The builder's list of kernels, as text."""

from __future__ import annotations

from edgemim.runtime.nvidia.listing import Kernel, read_kernels, read_structure
from edgemim.runtime.nvidia.onnx_file import OnnxFile, OnnxNode

_TENSOR = "{{ Name: {name}, Dimensions: [1,197,192], Strides: [37824,192,1], Datatype: {type}, Format: (Linear) Row }}"
_LINE = "Name: {name}, LayerType: {kind}, Inputs: [ {inputs}], {constants}Outputs: [ {output}], TacticName: t, {end}"


def line(name: str, kind: str, inputs: tuple[str, ...], nodes: tuple[str, ...], *, weights: str | None = "Int8") -> str:
    """One kernel as TensorRT-RTX 1.7 writes it."""
    shown = ", ".join(_TENSOR.format(name=f"in{i}", type=found) for i, found in enumerate(inputs))
    constants = f"Constants: [ {_TENSOR.format(name='w', type=weights)}], " if weights else ""
    output = _TENSOR.format(name="out", type="Half")
    metadata = "".join(f"[ONNX Layer: {node}]" for node in nodes)
    end = f"StreamId: 0, Metadata: {metadata}"
    return _LINE.format(name=name, kind=kind, inputs=shown, constants=constants, output=output, end=end)


def listing(*lines: str) -> str:
    return "\n".join(["Layers:", *lines, "", "I/O Tensors:", " Name: x0, IOMode: Input, DataType: Half"])


def softmaxes(*modules: str) -> OnnxFile:
    nodes = [OnnxNode(name=f"softmax_{i}", operator="Softmax", module=module) for i, module in enumerate(modules)]
    return OnnxFile(opset=20, nodes=(OnnxNode(name="a", operator="MatMul", module="qkv"), *nodes))


def test_a_kernel_has_its_kind_the_types_that_it_reads_and_its_onnx_nodes() -> None:
    text = line("node_a_myl0_1", "gemm", ("Int8",), ("node_a", "node_a_dequantized"))
    assert read_kernels([listing(text)]) == [
        Kernel(name="node_a_myl0_1", kind="gemm", inputs=("Int8",), nodes=("node_a", "node_a_dequantized"))
    ]


def test_the_last_engine_of_a_log_counts() -> None:
    first, second = line("a", "gemm", ("Half",), ()), line("b", "kgen", ("Half",), (), weights=None)
    messages = ["Graph optimisation", listing(first, first), "Engine generation completed", listing(second)]
    assert [kernel.name for kernel in read_kernels(messages)] == ["b"]
    assert read_kernels(["Graph optimisation"]) == []


def test_a_kernel_in_a_form_that_is_not_known_is_counted() -> None:
    kernels = read_kernels([listing("Name: something new, Kind: 7")])
    assert [(kernel.name, kernel.inputs) for kernel in kernels] == [("something new", ("",))]
    assert read_structure(kernels, softmaxes()).kernels == 1


def test_products_are_told_apart_by_what_they_read_and_attentions_are_none_of_them() -> None:
    kernels = read_kernels(
        [
            listing(
                line("node_a_myl0_1", "gemm", ("Int8",), ("a",)),
                line("node_b_myl0_2", "gemm", ("Half", "Half"), ("b",)),
                line("__myl_Fc_myl0_3", "kgen", ("Int8",), ("c",)),
                line("_gemm_mha_v2_myl0_4", "gemm", ("Int8", "Int8"), ("softmax_0",)),
                line("__myl_AddMul_myl0_5", "kgen", ("Int8",), ("d",)),
            )
        ]
    )
    structure = read_structure(kernels, softmaxes("blocks.0.attn"))
    assert structure.kernels == 5
    assert structure.products == {"Int8": 2, "Half": 1}


def test_convolutions_are_counted_by_the_type_that_they_read() -> None:
    kernels = read_kernels(
        [
            listing(
                line("node_Conv_1_myl0_1", "correlation", ("Int8",), ("conv_1",)),
                line("__myl_MulAddRelu_myl0_2", "kgen", ("Float",), ("conv_1",)),
                line("node_Conv_2_myl0_3", "correlation", ("Half",), ("conv_2",)),
            )
        ]
    )
    assert read_structure(kernels, softmaxes()).convolutions == {"Int8": 1, "Half": 1}


def test_every_softmax_is_in_one_kernel_with_its_attention_or_it_is_not() -> None:
    kernels = read_kernels(
        [
            listing(
                line("_gemm_mha_v2_myl0_1", "kgen", ("Int8", "Int8", "Int8"), ("scores", "softmax_0")),
                line("_gemm_mha_v2_myl0_2", "kgen", ("Half", "Int8", "Half"), ("softmax_1",)),
                line("__myl_MaxSubExpSumDiv_myl0_3", "kgen", ("Half",), ("softmax_2",)),
            )
        ]
    )
    structure = read_structure(kernels, softmaxes("blocks.0.attn", "blocks.1.attn", "blocks.1.attn"))
    assert structure.attentions == {"blocks.0.attn": "Int8", "blocks.1.attn": "Half/Int8", "blocks.1.attn#1": None}
    assert structure.fused == {"Int8": 1, "Half/Int8": 1}
    assert structure.unfused == 1
