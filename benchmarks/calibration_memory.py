"""How much memory does calibrating on 5,000 images of 224 pixels take above the model's own, and how long does it take?

    python benchmarks/calibration_memory.py [--images 5000] [--out results/calibration_memory.json]

ViT-Ti/16 with random weights; observed are the inputs of all linears, the outputs of qkv and the softmaxes, each with a
histogram: about 6 million values of an image. The images are JPEG files of 500 x 375 pixels, made of noise that
is smooth enough to be as large as photos. Each row is a process of its own, which imports no torch; the model's own
memory is that of a process with the same imports and images that runs the model once. Takes about ten minutes on two
cores that do nothing else, and 0.3 GB of disk in the temporary folder.

What would make the answer wrong: other work on the machine, for the time (the CPU time beside it suffers less);
larger images, which take longer to decode; a backbone with more activations. Memory does not depend on the weights.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import timm
import torch
from _parts.machine import command, describe_machine
from _parts.one_run import write_result
from _parts.side_by_side import say_on_stderr
from PIL import Image

from edgemim.export.passes import apply_passes
from edgemim.export.tracing import trace

HERE = Path(__file__).parent
MODEL, SIZE = "vit_tiny_patch16_224", 224
WORKERS = (1, 2)
LIMIT_MIB = 1.5e9 / 2**20


def main() -> None:
    """Measure both numbers of workers, and write `results/calibration_memory.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "calibration_memory.json")
    arguments = parser.parse_args()
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as folder:
        model, images = Path(folder) / "model.onnx", Path(folder) / "images"
        write_model(model)
        write_images(images, arguments.images)
        own = run(model, images, arguments.images, workers=0)["peak_mib"]
        say_on_stderr(f"the model alone: {own:.0f} MiB")
        rows = []
        for workers in WORKERS:
            row = {"workers": workers, **run(model, images, arguments.images, workers=workers)}
            row["above_own_mib"] = round(row["peak_mib"] - own, 1)
            rows.append(row)
            say_on_stderr(f"{workers} workers: {row['above_own_mib']} MiB more, {row['ms_per_image']} ms per image")
    result = {
        "question": (__doc__ or "").split("\n")[0],
        "command": command("calibration_memory.py"),
        "model": MODEL,
        "image_size": SIZE,
        "images": arguments.images,
        "own_peak_mib": own,
        "limit_mib": round(LIMIT_MIB, 1),
        "met": all(row["above_own_mib"] < LIMIT_MIB for row in rows),
        "same_statistics": len({row["statistics_sha256"] for row in rows}) == 1,
        "rows": rows,
        **machine,
    }
    write_result(arguments.out, result)
    say_on_stderr(f"wrote {arguments.out}")


def write_model(file: Path) -> None:
    """The fp32 flavour, as export writes it."""
    torch.manual_seed(0)
    model = timm.create_model(MODEL).eval()
    graph = apply_passes(trace(model, torch.zeros(1, 3, SIZE, SIZE), input_name="images", output_name="logits"))
    file.write_bytes(ir.to_proto(graph).SerializeToString(deterministic=True))


def write_images(folder: Path, count: int) -> None:
    """JPEG files of 500 x 375 pixels."""
    folder.mkdir()
    for index in range(count):
        noise = np.random.default_rng(index).integers(0, 256, (94, 125, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=85)
        (folder / f"{index:05d}.jpg").write_bytes(stream.getvalue())


def run(model: Path, images: Path, count: int, *, workers: int) -> dict[str, Any]:
    """What a process of its own says of itself."""
    numbers = ["--count", str(count), "--size", str(SIZE), "--workers", str(workers)]
    command = [sys.executable, "-m", "_parts.calibration_run", str(model), str(images), *numbers]
    done = subprocess.run(command, cwd=HERE, stdout=subprocess.PIPE, text=True, check=True)
    facts = json.loads(done.stdout)
    assert isinstance(facts, dict)
    return facts


if __name__ == "__main__":
    main()
