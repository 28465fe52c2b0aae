"""In which form does ONNX Runtime run an INT8 ViT fastest on this CPU, and does it beat fp32?

    python benchmarks/int8_onnxruntime.py [--widths 192 384] [--rounds 8] [--seconds 4]

One ViT (ViT-Ti at width 192, ViT-S at 384; 224 pixels, 12 blocks, random weights) is written in every form that the
CPU kernels of ONNX Runtime know: Q/DQ around MatMul, as edgemim's quantizers write it, with and without the
settings of edgemim's backend; Q/DQ around Gemm with an integer bias; operators of its own; activations quantized
at run time; fused attention. All are timed in turn, one thread, one image. Beside the time stand the cosine of
the logits with fp32's (what saturation costs), and the operators that are left after its graph optimisation
(which form was fused, and which fell back to float). OpenVINO's fp32 and Q/DQ are timed with them.

Takes about five minutes. The time is CPU time of the process, which on one thread is the latency of an idle
machine; where the machine was busy, the least time tells more than the median. What would make the answer wrong:
taking it to a CPU with VNNI or AMX, whose answer is another one (run it there); weights of a trained network,
where saturation costs less or more.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from _parts.machine import command, describe_machine
from _parts.vit_forms import SIZE, Array, Form, build_vit, measure_ranges
from onnx import TensorProto, helper

from edgemim.artifact import write_text
from edgemim.runtime.latency.measure import measure_latency
from edgemim.runtime.latency.protocol import LatencyProtocol
from edgemim.runtime.latency.summary import latency_ratio, summarise

HERE = Path(__file__).parent
IMAGES = 4
SIGNED = {"session.qdqisint8allowed": "1"}
MATMUL = {"optimization.disable_specified_optimizers": "MatMulAddFusion"}
EXACT = {"session.x64quantprecision": "1"}
OPENVINO = {
    "PERFORMANCE_HINT": "LATENCY",
    "NUM_STREAMS": "1",
    "INFERENCE_NUM_THREADS": 1,
    "INFERENCE_PRECISION_HINT": "f32",
}
FORMS: dict[str, tuple[Form, dict[str, str]]] = {
    "fp32": (Form(), {}),
    "fp32, fused attention": (Form(attention="fused"), {}),
    "Q/DQ": (Form(linear="qdq"), {}),
    "Q/DQ, int8 kept": (Form(linear="qdq"), SIGNED),
    "Q/DQ in uint8": (Form(linear="qdq-uint8"), {}),
    "Q/DQ, per-tensor weights": (Form(linear="qdq", per_channel=False), {}),
    "Q/DQ + MatMul kept": (Form(linear="qdq"), MATMUL),
    "Q/DQ + MatMul kept, exact": (Form(linear="qdq"), MATMUL | EXACT),
    "Q/DQ + MatMul kept, 7-bit weights": (Form(linear="qdq", weight_steps=63), MATMUL),
    "Q/DQ + MatMul kept, exact, per-tensor": (Form(linear="qdq", per_channel=False), MATMUL | EXACT),
    "Q/DQ + MatMul kept, exact, int8 attention": (Form(linear="qdq", attention="qdq"), MATMUL | EXACT),
    "Q/DQ + MatMul kept, exact, fused attention": (Form(linear="qdq", attention="fused"), MATMUL | EXACT),
    "QGemm": (Form(linear="qgemm"), {}),
    "QGemm, exact": (Form(linear="qgemm"), EXACT),
    "MatMulIntegerToFloat": (Form(linear="integer"), {}),
    "MatMulIntegerToFloat, uint8 weights": (Form(linear="integer-uint8"), {}),
    "MatMulIntegerToFloat and QAttention": (Form(linear="integer", attention="fused-qkv"), {}),
    "DynamicQuantizeMatMul": (Form(linear="dynamic"), {}),
    "DynamicQuantizeMatMul, exact": (Form(linear="dynamic"), EXACT),
    "MatMulNBits, 8 bits": (Form(linear="blocks"), {}),
}


def main() -> None:
    """Measure every form, and write `results/int8_onnxruntime.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[192, 384])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0, help="least time measured per form")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "int8_onnxruntime.json")
    arguments = parser.parse_args()
    machine = describe_machine()
    protocol = LatencyProtocol(
        runs=arguments.rounds, seconds=arguments.seconds, rounds=arguments.rounds, warmup_runs=3, settle_runs=1
    )
    result = {
        "question": (__doc__ or "").split("\n")[0],
        "command": command("int8_onnxruntime.py"),
        "image_size": SIZE,
        "threads": 1,
        "clock": "CPU time of the process",
        "rounds": arguments.rounds,
        "runtimes": {name: version(name) for name in ("onnxruntime", "openvino")},
        "models": [{"width": width, "rows": measure(width, protocol)} for width in arguments.widths],
        **machine,
    }
    write_text(arguments.out, json.dumps(result, indent=1) + "\n")
    sys.stderr.write(f"wrote {arguments.out}\n")


def measure(width: int, protocol: LatencyProtocol) -> list[dict[str, Any]]:
    """One row per form: times, the ratio of its p50 to ONNX Runtime's fp32, cosine of the logits, operators left."""
    ranges = measure_ranges(width=width, run=tapped)
    image = np.random.default_rng(1).standard_normal((1, 3, SIZE, SIZE)).astype(np.float32)
    calls: dict[str, Callable[[], Array]] = {}
    operators: dict[str, Mapping[str, int] | None] = {}
    for name, (form, settings) in FORMS.items():
        model = build_vit(form, width=width, ranges=ranges)
        calls[name], operators[name] = in_onnxruntime(model, settings, image)
    for name, form in (("OpenVINO, fp32", Form()), ("OpenVINO, Q/DQ", Form(linear="qdq"))):
        calls[name], operators[name] = in_openvino(build_vit(form, width=width, ranges=ranges), image), None
    expected = calls["fp32"]()
    samples = measure_latency(calls, protocol, clock=time.process_time_ns)
    rows = []
    for name, call in calls.items():
        latency, ratio = summarise(samples[name]), latency_ratio(samples[name], samples["fp32"])
        rows.append(
            {
                "form": name,
                "settings": FORMS[name][1] if name in FORMS else OPENVINO,
                "p50_ms": round(latency.p50_ms, 3),
                "least_ms": round(float(samples[name].nanoseconds.min()) / 1e6, 3),
                "versus_fp32": round(ratio.ratio, 4),
                "versus_fp32_range": [round(ratio.low, 4), round(ratio.high, 4)],
                "cosine": round(cosine(call(), expected), 6),
                "runs": latency.n,
                "operators": operators[name],
            }
        )
        shown = f"{latency.p50_ms:7.2f} ms, least {rows[-1]['least_ms']:7.2f} ms, {ratio.ratio:.2f} of fp32"
        sys.stderr.write(f"{name:44s} {shown}, cosine {rows[-1]['cosine']:.5f}\n")
    return rows


def in_onnxruntime(
    model: onnx.ModelProto, settings: Mapping[str, str], image: Array
) -> tuple[Callable[[], Array], dict[str, int]]:
    """One run on one thread, and the number of operators by name after optimisation."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        options.optimized_model_filepath = f"{folder}/optimized.onnx"
        for name, value in settings.items():
            options.add_session_config_entry(name, value)
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        left = Counter(node.op_type for node in onnx.load(f"{folder}/optimized.onnx").graph.node)
    return lambda: session.run(None, {"images": image})[0], dict(sorted(left.items()))


def in_openvino(model: onnx.ModelProto, image: Array) -> Callable[[], Array]:
    """One run on one thread."""
    import openvino

    compiled = openvino.Core().compile_model(openvino.Core().read_model(model.SerializeToString()), "CPU", OPENVINO)
    request = compiled.create_infer_request()
    return lambda: np.array(request.infer([image])["logits"])


def tapped(model: onnx.ModelProto, names: list[str]) -> Iterator[list[Array]]:
    """Values of the named tensors on a few random images."""
    for name in names:
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for _ in range(IMAGES):
        yield session.run(names, {"images": rng.standard_normal((1, 3, SIZE, SIZE)).astype(np.float32)})


def cosine(ours: Array, theirs: Array) -> float:
    """Of two vectors."""
    a, b = ours.astype(np.float64).ravel(), theirs.astype(np.float64).ravel()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


if __name__ == "__main__":
    main()
