"""What does INT8 cost a ViT that was trained: which placement, which ranges, beside NNCF and naive INT8?

    python benchmarks/int8_accuracy.py --checkpoint runs/vit [--data PATH] [--images 10000] [--workers 2]

Top-1, its drop against fp32 on the same images with a 95 % interval, the share of images given the same class as fp32,
and the mean cosine of the logits, on CIFAR-10's test images. Every INT8 graph is computed as it says, Q and DQ in float
one by one (ONNX Runtime without optimisations): that is what a CPU with VNNI or AMX gives but for rounding, while a
CPU with AVX2 alone saturates in its 16-bit sums. NNCF's own default is run by OpenVINO, since its graph is not ONNX;
so is ours once more, which shows what this CPU adds.

The checkpoint is any classifier of edgemim on CIFAR-10; the one of the committed result was made by

    edgemim pretrain --recipe mae_small --data cifar10/ --steps 2 --batch-size 128 --out runs/fresh
        --set backbone.embed_dim=128 --set backbone.depth=6 --set backbone.num_heads=2
    edgemim finetune runs/fresh --recipe finetune_small --data cifar10/ --epochs 6 --batch-size 128 --out runs/vit

The targets: INT8 loses at most 0.3 points and agrees with fp32 on at least 99 % of the images.

What would make the answer wrong: settings picked on these test images; one model.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from _parts.machine import command, describe_machine
from _parts.one_run import write_result
from _parts.side_by_side import say_on_stderr

from edgemim.artifact import Artifact
from edgemim.data.open import open_splits
from edgemim.export.onnx import export_checkpoint
from edgemim.models.checkpoint import Checkpoint, load_checkpoint
from edgemim.quantize.calibration import Calibration, choose_calibration
from edgemim.quantize.quantizers import QUANTIZERS
from edgemim.quantize.quantizers.ptq import PTQ
from edgemim.runtime.accuracy.measure import measure_accuracy
from edgemim.runtime.targets import TARGETS

HERE = Path(__file__).parent
CIFAR10 = HERE.parent.parent / "shared" / "data" / "cifar10"
CALIBRATION_IMAGES = 300
REFERENCE = "fp32"
DEFAULT_RANGES = PTQ().ranges

Floats = np.ndarray
Run = Callable[[Floats], Floats]
Variant = tuple[str, Callable[[], Run]]


def main() -> None:
    """Quantize in every way, run the test images, and write `results/int8_accuracy.json`."""
    arguments = parse()
    checkpoint = load_checkpoint(arguments.checkpoint)
    splits = open_splits(str(arguments.data), seed=0)
    batches = choose_calibration(splits.train, checkpoint.preprocess, count=CALIBRATION_IMAGES, seed=0)
    count = min(arguments.images, len(splits.test))
    pixels = np.stack([checkpoint.preprocess.pixels(splits.test.image(i)) for i in range(count)])
    labels = np.asarray(splits.test.labels)[:count]
    rows = {}
    with tempfile.TemporaryDirectory(prefix="int8-accuracy-") as folder:
        source = export_checkpoint(checkpoint, Path(folder) / "fp32", pixels=pixels[:8])
        outputs: dict[str, Floats] = {}
        for name, make in variants(source, batches, Path(folder)):
            outputs[name] = run_all(make(), checkpoint, pixels, arguments.workers)
            rows[name] = row(outputs[name], outputs[REFERENCE], labels)
            say_on_stderr(f"{name}: {rows[name]}")
    result = {
        "question": (__doc__ or "").split("\n")[0],
        "command": command("int8_accuracy.py"),
        "model": describe(checkpoint),
        "images": count,
        "calibration_images": CALIBRATION_IMAGES,
        "rows": rows,
        **describe_machine(),
    }
    write_result(arguments.out, result)
    say_on_stderr(f"wrote {arguments.out}")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=CIFAR10)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "int8_accuracy.json")
    return parser.parse_args()


def variants(source: Artifact, batches: Calibration, folder: Path) -> Iterator[Variant]:
    """Every way of quantizing, the float model first."""
    x86, jetson = TARGETS.get("x86"), TARGETS.get("jetson")
    yield REFERENCE, lambda: simulated(source.file("fp32.onnx"))
    for ranges in ("max", "percentile", "mse", "entropy"):
        made = PTQ(ranges=ranges).quantize(source, batches, folder / f"ptq-{ranges}", target=x86)
        for placement in ("linear", "attention"):
            yield f"{placement}, {ranges}", bound(simulated, made, f"int8-{placement}.onnx")
    others = {"without smoothing": PTQ(smooth=False), "bias correction": PTQ(bias_correction=True)}
    for what, quantizer in others.items():
        made = quantizer.quantize(source, batches, folder / f"ptq-{what}", target=x86)
        for placement in ("linear", "attention"):
            yield f"{placement}, {DEFAULT_RANGES}, {what}", bound(simulated, made, f"int8-{placement}.onnx")
    made = PTQ(placements=("attention",)).quantize(source, batches, folder / "jetson", target=jetson)
    yield f"attention, {DEFAULT_RANGES}, int8 softmax", bound(simulated, made, "int8-attention.onnx")
    made = PTQ(placements=("everything",)).quantize(source, batches, folder / "everything", target=x86)
    yield f"everything, {DEFAULT_RANGES}", bound(simulated, made, "int8-everything.onnx")
    made = QUANTIZERS.get("nncf")().quantize(source, batches, folder / "nncf", target=x86)
    yield "nncf, symmetric", bound(simulated, made, "int8-nncf.onnx")
    default = folder / "nncf-default.xml"
    nncf_default(source, batches, default)
    yield "nncf default on this CPU", lambda: on_openvino(default)
    made = PTQ().quantize(source, batches, folder / "ptq", target=x86)
    for placement in ("linear", "attention"):
        yield f"{placement} on this CPU", bound(on_openvino, made, f"int8-{placement}.onnx")


def bound(make: Callable[[Path], Run], artifact: Artifact, file: str) -> Callable[[], Run]:
    """`make` of a file of an artifact, when it is wanted."""
    return lambda: make(artifact.file(file))


def simulated(file: Path) -> Run:
    """The graph as it says, in float."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = 1
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda image: np.asarray(session.run(None, {name: image})[0])


def on_openvino(file: Path) -> Run:
    """The graph as OpenVINO runs it on this CPU."""
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(core.read_model(str(file)), "CPU", settings)
    # A request each call: requests are not shared between threads.
    return lambda image: np.array(compiled.create_infer_request().infer({0: image})[0])


def nncf_default(source: Artifact, batches: Calibration, out: Path) -> None:
    """What a user of NNCF and OpenVINO gets: `model_type=TRANSFORMER`, everything else as it comes."""
    import nncf
    import openvino

    model = openvino.Core().read_model(str(source.file("fp32.onnx")))
    name = source.content["input"]["name"]
    data = nncf.Dataset([{name: image} for image in islice(batches, CALIBRATION_IMAGES)])
    quantized = nncf.quantize(model, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=CALIBRATION_IMAGES)
    openvino.save_model(quantized, str(out), compress_to_fp16=False)


def run_all(run: Run, checkpoint: Checkpoint, pixels: Floats, workers: int) -> Floats:
    """Logits of every image, [N, K]."""
    with ThreadPoolExecutor(max_workers=workers) as pool:
        found = pool.map(lambda image: run(checkpoint.preprocess.normalise(image[None])), pixels)
        return np.concatenate(list(found)).astype(np.float32)


def row(outputs: Floats, reference: Floats, labels: Floats) -> dict[str, Any]:
    """Accuracy in percent and points."""
    found = measure_accuracy(outputs, labels=labels, reference=reference, classifies=True)
    assert found.top1 is not None
    assert found.top1_drop is not None
    assert found.top1_drop_se is not None
    return {
        "top1": round(100 * found.top1, 2),
        "drop": round(100 * found.top1_drop, 2),
        "drop_interval": [round(100 * (found.top1_drop + k * 1.96 * found.top1_drop_se), 2) for k in (-1, 1)],
        "agreement": None if found.agreement is None else round(found.agreement, 4),
        "cosine": None if found.cosine is None else round(found.cosine, 6),
    }


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """What was quantized."""
    return {
        "architecture": checkpoint.architecture,
        "arguments": dict(checkpoint.info.model_args),
        "size": list(checkpoint.preprocess.size),
        "parameters": sum(parameter.numel() for parameter in checkpoint.model.parameters()),
    }


if __name__ == "__main__":
    main()
