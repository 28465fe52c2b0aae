"""Students of three methods on their whole way, from pretraining to a report of INT8; that of SparK is a convnet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch

from edgemim.artifact import load_artifact
from edgemim.models.checkpoint import load_checkpoint


@dataclass(frozen=True, kw_only=True)
class Case:
    """A method, and what makes its run for small images a tiny one.

    Attributes:
        int8: Names of the candidates that quantization comes to.
        layers: What the student is made of, as ONNX calls them.
        count: How many of these become INT8.
    """

    backbone: tuple[str, ...]
    decoder: tuple[str, ...]
    int8: tuple[str, ...]
    layers: tuple[str, ...]
    count: int


VIT = Case(
    backbone=("embed_dim=32", "depth=2", "num_heads=4", "patch_size=8"),
    decoder=("decoder_width=32", "decoder_depth=1", "decoder_heads=4"),
    int8=("int8-linear", "int8-attention"),
    layers=("MatMul", "Gemm"),
    count=8,  # qkv, proj, fc1 and fc2 in each of two blocks
)
CONVNET = Case(
    backbone=("depths=[1, 1, 1, 1]", "dims=[8, 8, 16, 32]"),
    decoder=("decoder_width=32",),
    int8=("int8-conv",),
    layers=("Conv",),
    count=16,  # the stem, three in the block of each of four stages, and one between each two of these
)
CASES = {"spark": CONVNET, "hpm": VIT, "mixedae": VIT}


@dataclass(frozen=True, kw_only=True)
class Student:
    """What the commands left behind of the student of one method.

    Attributes:
        exported, report: What `export` and `check` printed.
        int8: Names of the INT8 candidates that any CPU can run; no others are checked.
    """

    name: str
    case: Case
    classifier: Path
    bundle: Path
    exported: Any
    int8: tuple[str, ...]
    report: Any

    def graph(self, candidate: str) -> onnx.ModelProto:
        (file,) = [c["file"] for c in self.exported["candidates"] if c["name"] == candidate]
        return onnx.load(self.bundle / file)


# Tracing and measuring take seconds each, of which the convnet's are the ones that no other test has.
@pytest.fixture(
    scope="module",
    params=["spark", *(pytest.param(name, marks=pytest.mark.slow) for name in ("hpm", "mixedae"))],
)
def student(
    request: pytest.FixtureRequest, cli: Any, options: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory
) -> Student:
    name, case = request.param, CASES[request.param]
    folder = tmp_path_factory.mktemp(name)
    sizes = [f"backbone.{pair}" for pair in case.backbone] + [f"method.{pair}" for pair in case.decoder]
    tiny = [word for pair in (*sizes, "evaluation.probe=none") for word in ("--set", pair)]
    out = {stage: folder / stage for stage in ("pretrain", "finetune", "export", "check")}

    def done(stage: str, *arguments: object) -> Any:
        result = cli(stage, *arguments, "--out", out[stage], "--json")
        assert result.code == 0, result.err
        return result.json

    done("pretrain", "--data", "digits", "--recipe", f"{name}-small", *tiny, *options.short)
    done("finetune", out["pretrain"], "--data", "digits", *options.finetune)
    exported = done("export", out["finetune"], *options.export, "--gate", "top1.max_drop=0.9")
    int8 = tuple(c["name"] for c in exported["candidates"] if c["precision"] == "int8" and not c["needs"])
    report = done("check", out["export"], "--candidates", ",".join(int8), *options.check)
    return Student(
        name=name,
        case=case,
        classifier=out["finetune"],
        bundle=out["export"],
        exported=exported,
        int8=int8,
        report=report,
    )


def quantized(graph: onnx.ModelProto, kinds: tuple[str, ...]) -> Iterator[str]:
    """Names of the layers of these kinds that have an INT8 input and INT8 weights."""
    made = {name: node for node in graph.graph.node for name in node.output}
    weights = {tensor.name for tensor in graph.graph.initializer if tensor.data_type == onnx.TensorProto.INT8}
    for node in graph.graph.node:
        sources = [made.get(name) for name in node.input[:2]]
        if node.op_type in kinds and all(s is not None and s.op_type == "DequantizeLinear" for s in sources):
            data, weight = (s.input[0] for s in sources if s is not None)
            if weight in weights and made[data].op_type == "QuantizeLinear":
                yield node.name


def test_its_layers_are_int8(student: Student) -> None:
    assert student.int8 == student.case.int8
    for candidate, count in {"fp32": 0, **dict.fromkeys(student.int8, student.case.count)}.items():
        found = list(quantized(student.graph(candidate), student.case.layers))
        assert len(found) == count, candidate


def test_int8_runs_in_both_engines_and_the_report_passes(student: Student) -> None:
    assert student.report["passed"] is True
    ran = {(row["name"], row["backend"]): row for row in student.report["candidates"]}
    for key in [(name, backend) for name in student.int8 for backend in ("onnxruntime", "openvino")]:
        assert ran[key]["disqualified"] is None
        assert ran[key]["passed"] is True
        assert ran[key]["latency"]["p50_ms"] > 0
        assert ran[key]["accuracy"]["n"] == 20
        # Without INT8 dot products OpenVINO's sums saturate, and a net that was hardly trained says almost nothing.
        assert ran[key]["accuracy"]["cosine"] > 0.9


def test_the_fp32_graph_gives_what_timm_gives(student: Student) -> None:
    contract = load_checkpoint(student.classifier).preprocess
    model = timm.create_model(f"local-dir:{student.classifier}", pretrained=True).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (1, *contract.size, 3), dtype=np.uint8)
    image = (torch.from_numpy(pixels).float() / 255 - torch.tensor(contract.mean)) / torch.tensor(contract.std)
    with torch.no_grad():
        expected = model(image.permute(0, 3, 1, 2)).numpy()
    session = onnxruntime.InferenceSession(
        student.graph("fp32").SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (logits,) = session.run(None, {session.get_inputs()[0].name: pixels})
    assert np.ptp(expected) > 0.1
    # Folded norms round in other places; logits are of the order of 1.
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


def test_the_report_names_every_stage_and_the_method(student: Student) -> None:
    records = load_artifact(Path(student.report["report"]), "report").provenance
    stages = ["pretrain", "finetune", "export", "quantize", "pixels", "bundle", "check"]
    assert [record["stage"] for record in records] == stages
    assert records[0]["settings"]["method"]["name"] == student.name
