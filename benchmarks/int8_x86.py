"""Is INT8 faster than float on this x86 CPU, and how does edgemim's placement do beside NNCF's?

    python benchmarks/int8_x86.py [--models vit_tiny_patch16_224 ...] [--levels native AVX2 ...] [--rounds 10]

For each ViT at 224 pixels, one thread, one image: ONNX Runtime fp32, OpenVINO fp32 and bf16, `nncf.quantize` of the
OpenVINO model with `model_type=TRANSFORMER` and its other defaults (hints f32 and bf16), and edgemim's `linear` and
`attention` placements (hints f32 and bf16, and on ONNX Runtime with the settings of edgemim's backend). All of one
model are timed in turn, in one process per instruction set; `INFERENCE_PRECISION_HINT` is always given. Lower
instruction sets are had by capping oneDNN (`ONEDNN_MAX_CPU_ISA`), which holds for OpenVINO only, so that ONNX Runtime
is left out there. bf16 is left out where the hardware lacks it: emulated, it takes many times as long. Weights are
random, since latency does not depend on them.

The targets of the result: what ships (the fastest of ours) at most 0.85 of NNCF's default INT8, never slower than
bf16, at most 0.30 of ONNX Runtime fp32; INT8 at least 2.3 times as fast as fp32 on AVX-512 VNNI and 1.8 times on AVX2
VNNI. On plain AVX2 the expectation was that float wins; the table says what does.

What would make the answer wrong: other work on the machine; a virtual machine's neighbours; clocks that float (the
ratios of rounds taken in turn suffer less than the milliseconds).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from _parts.machine import command, describe_machine
from _parts.one_run import write_result
from _parts.random_vit import random_checkpoint
from _parts.side_by_side import say_on_stderr

from edgemim.runtime.backends.onnxruntime import int8_settings
from edgemim.runtime.device import describe_device
from edgemim.runtime.isa_cap import under_cap
from edgemim.runtime.latency.measure import measure_latency
from edgemim.runtime.latency.protocol import LatencyProtocol
from edgemim.runtime.latency.summary import latency_ratio, summarise

HERE = Path(__file__).parent
PHOTOS = HERE.parent.parent / "shared" / "data" / "imagenet-sample"
MODELS = ("vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224")
LEVELS = ("AVX512_CORE_VNNI", "AVX2_VNNI", "AVX2")
PEER = "nncf"
NNCF_IMAGES = 300


def main() -> None:
    """Prepare every model, time it at every level, and write `results/int8_x86_<level of this CPU>.json`."""
    arguments = parse()
    if arguments.job is not None:
        print(json.dumps(time_job(json.loads(arguments.job.read_text("utf-8")))))
        return
    machine = describe_machine()
    device = describe_device()
    rows: dict[str, Any] = {}
    for name in arguments.models:
        files = prepare(name, arguments.work / name, arguments.data)
        rows[name] = {
            level: time_at(level, name, files, arguments) for level in arguments.levels or levels_of(device.isa or ())
        }
    result = {
        "question": (__doc__ or "").split("\n")[0],
        "command": command("int8_x86.py"),
        "threads": 1,
        "level": device.isa_level,
        "rows": rows,
        **machine,
    }
    out = arguments.out / f"int8_x86_{device.isa_level}.json"
    write_result(out, result)
    say_on_stderr(f"wrote {out}")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--levels", nargs="+", help="native, or a value of ONEDNN_MAX_CPU_ISA; default: all it has")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each candidate, in all rounds")
    parser.add_argument("--data", default=str(PHOTOS) if PHOTOS.exists() else "", help="photos to calibrate on")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--work", type=Path, default=HERE.parent / "runs" / "int8_x86")
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def levels_of(isa: tuple[str, ...]) -> list[str]:
    """`native`, and the caps that take something away from this CPU without asking for more than it has."""
    lower = [cap for cap in LEVELS if set(under_cap(isa, cap)) != set(isa)]
    needed = {"AVX512_CORE_VNNI": "avx512_vnni", "AVX2_VNNI": "avx_vnni", "AVX2": "avx2"}
    return ["native", *(cap for cap in lower if needed[cap] in isa)]


def prepare(name: str, work: Path, data: str) -> dict[str, str]:
    """Files to run, by name: ours from the command line tool's own pipeline, NNCF's as its users make it."""
    from edgemim.artifact import MANIFEST, load_artifact
    from edgemim.pipeline.make_bundle import BundleSettings, make_bundle

    checkpoint = random_checkpoint(work / "checkpoint", name)
    bundle = work / "bundle"
    calibration = data or f"random:{NNCF_IMAGES}"
    if not (bundle / MANIFEST).exists():
        settings = BundleSettings(
            target="x86", precision="int8", quantizer="ptq", calibration=calibration, evaluation="none", input="float"
        )
        make_bundle(checkpoint, bundle, settings, say=say_on_stderr)
    artifact = load_artifact(bundle, "bundle")
    files = {flavour["name"]: str(artifact.file(flavour["file"])) for flavour in artifact.content["flavours"]}
    nncf = work / "nncf" / "model.xml"
    if not nncf.exists():
        quantize_with_nncf(Path(files["fp32"]), nncf, artifact.content["input"]["name"])
    return files | {"nncf": str(nncf)}


def quantize_with_nncf(fp32: Path, out: Path, input_name: str) -> None:
    """NNCF's defaults for a transformer on the OpenVINO model; noise will do, since only latency is asked for."""
    import nncf
    import openvino

    model = openvino.Core().read_model(str(fp32))
    shape = tuple(model.input(0).shape)
    rng = np.random.default_rng(0)
    images = [{input_name: rng.standard_normal(shape).astype(np.float32)} for _ in range(16)]
    quantized = nncf.quantize(model, nncf.Dataset(images), model_type=nncf.ModelType.TRANSFORMER)
    out.parent.mkdir(parents=True, exist_ok=True)
    openvino.save_model(quantized, str(out), compress_to_fp16=False)


def time_at(level: str, name: str, files: Mapping[str, str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Time one model under one cap, in a process of its own: oneDNN reads the cap once."""
    cap = None if level == "native" else level
    device = describe_device()
    isa = under_cap(device.isa or (), cap)
    bf16 = bool({"amx_bf16", "avx512_bf16"} & set(isa))
    job = arguments.work / f"job-{name}-{level}.json"
    job.write_text(
        json.dumps(
            {
                "files": dict(files),
                "bf16": bf16,
                "capped": cap is not None,
                "rounds": arguments.rounds,
                "seconds": arguments.seconds,
            }
        )
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"} | ({"ONEDNN_MAX_CPU_ISA": cap} if cap else {})
    command = [sys.executable, __file__, "--job", str(job)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    timed = found["candidates"]
    shown = ", ".join(f"{key} {row['p50_ms']:.2f}" for key, row in timed.items())
    say_on_stderr(f"{name} at {level}: {shown} ms")
    return found | {"isa": list(isa), "targets": judge(timed, isa)}


def time_job(job: Mapping[str, Any]) -> dict[str, Any]:
    """Every candidate of one model, in turn."""
    files, hints = job["files"], ("f32", "bf16") if job["bf16"] else ("f32",)
    calls: dict[str, Callable[[], object]] = {}
    for flavour in ("fp32", "int8-linear", "int8-attention", "nncf"):
        for hint in hints:
            suffix = "" if hint == "f32" else "-bf16"
            label = "bf16" if (flavour, hint) == ("fp32", "bf16") else f"{flavour}{suffix}"
            calls[f"openvino {label}"] = openvino_call(files[flavour], hint)
    # The cap does not hold for ONNX Runtime, which would be seen at the full instruction set.
    for flavour in () if job["capped"] else sorted(set(files) - {"nncf"}):
        entries = {} if flavour == "fp32" else int8_settings(describe_device().isa)
        calls[f"onnxruntime {flavour}"] = onnxruntime_call(files[flavour], entries)
    protocol = LatencyProtocol(runs=job["rounds"] * 5, seconds=job["seconds"], rounds=job["rounds"])
    samples = measure_latency(calls, protocol)
    base = samples["openvino fp32"]
    rows = {}
    for label, taken in samples.items():
        latency, ratio = summarise(taken), latency_ratio(taken, base)
        rows[label] = {
            "p50_ms": round(latency.p50_ms, 3),
            "p90_ms": None if latency.p90_ms is None else round(latency.p90_ms, 3),
            "runs": latency.n,
            "times_fp32": [round(value, 3) for value in (ratio.ratio, ratio.low or 0.0, ratio.high or 0.0)],
            "round_medians_ms": [round(float(value) / 1e6, 3) for value in taken.round_medians()],
        }
    return {"candidates": rows}


def openvino_call(file: str, hint: str) -> Callable[[], object]:
    """One inference of one image, one thread, latency hint."""
    import openvino

    core = openvino.Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": "1",
        "INFERENCE_PRECISION_HINT": hint,
    }
    request = core.compile_model(core.read_model(file), "CPU", settings).create_infer_request()
    image = _image(tuple(request.model_inputs[0].shape))
    return lambda: request.infer({0: image}, share_inputs=True)


def onnxruntime_call(file: str, entries: Mapping[str, str]) -> Callable[[], object]:
    """The same with ONNX Runtime."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = 1
    for name, value in entries.items():
        settings.add_session_config_entry(name, value)
    session = onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0]
    image = _image(tuple(source.shape))
    return lambda: session.run(None, {source.name: image})


def judge(timed: Mapping[str, Any], isa: tuple[str, ...]) -> list[dict[str, Any]]:
    """Every target that speaks of this instruction set, with what was found."""
    ms = {name: row["p50_ms"] for name, row in timed.items()}
    ships = min((name for name in ms if PEER not in name), key=lambda name: ms[name])
    found = []

    def hold(what: str, value: float, limit: float, *, most: bool) -> None:
        met = value <= limit if most else value >= limit
        found.append({"target": what, "value": round(value, 3), "limit": limit, "met": met})

    if "amx_int8" in isa:
        hold(f"{ships} / openvino nncf", ms[ships] / ms["openvino nncf"], 0.85, most=True)
        if "onnxruntime fp32" in ms:  # it is left out under a cap
            hold(f"{ships} / onnxruntime fp32", ms[ships] / ms["onnxruntime fp32"], 0.30, most=True)
        hold(f"{ships} / openvino bf16", ms[ships] / ms["openvino bf16"], 1.0, most=True)
    elif "avx512_vnni" in isa or "avx_vnni" in isa:
        least = 2.3 if "avx512_vnni" in isa else 1.8
        hold(f"openvino fp32 / {ships}", ms["openvino fp32"] / ms[ships], least, most=False)
    elif any(name.startswith("onnxruntime") for name in ms):  # whose INT8 is what ships there
        floats = min((name for name in ms if name.endswith("fp32")), key=lambda name: ms[name])
        hold(f"{floats} / {ships}, which ships", ms[floats] / ms[ships], 1.0, most=False)
    return found


def _image(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


if __name__ == "__main__":
    main()
