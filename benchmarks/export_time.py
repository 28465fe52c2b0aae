"""How long does it take from a checkpoint of ViT-Ti to an INT8 bundle, calibrated on 300 images?

    python benchmarks/export_time.py [--model vit_tiny_patch16_224] [--images 300] [--rounds 3]

The command that a user runs, `edgemim export --target x86`, from the start of its process to its end: reading the
checkpoint, tracing, the float flavours with their comparison in ONNX Runtime, calibration, every placement's INT8
graph, and the bundle. Seconds of wall time, and of the process's CPU time, which other work on the machine moves less.
The target is 30 s on two cores.

What would make the answer wrong: other work on the machine; images much larger than photos of the web, which take
longer to decode. Weights are random, since nothing here depends on them.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _parts.machine import command, describe_machine
from _parts.one_run import write_result
from _parts.random_vit import random_checkpoint
from _parts.side_by_side import say_on_stderr

HERE = Path(__file__).parent
PHOTOS = HERE.parent.parent / "shared" / "data" / "imagenet-sample"
LIMIT_S = 30.0


def main() -> None:
    """Run the command a few times, and write `results/export_time.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_tiny_patch16_224")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", default=str(PHOTOS) if PHOTOS.exists() else "", help="default: noise")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "export_time.json")
    arguments = parser.parse_args()
    machine = describe_machine()
    data = arguments.data or f"random:{arguments.images}"
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = random_checkpoint(Path(folder) / "checkpoint", arguments.model)
        rows = []
        for number in range(arguments.rounds):
            rows.append(export(checkpoint, Path(folder) / f"bundle-{number}", data, arguments.images))
            say_on_stderr(f"{rows[-1]['wall_s']} s, {rows[-1]['cpu_s']} s of CPU time")
    wall = statistics.median(row["wall_s"] for row in rows)
    result = {
        "question": (__doc__ or "").split("\n")[0],
        "command": command("export_time.py"),
        "model": arguments.model,
        "images": arguments.images,
        "noise": not arguments.data,
        "wall_s": wall,
        "limit_s": LIMIT_S,
        "met": wall < LIMIT_S,
        "rows": rows,
        **machine,
    }
    write_result(arguments.out, result)
    say_on_stderr(f"wrote {arguments.out}")


def export(checkpoint: Path, out: Path, data: str, images: int) -> dict[str, Any]:
    """One run of the command."""
    options = ["--target", "x86", "--calibration", data, "--calibration-count", str(images), "--evaluation", "none"]
    command = [sys.executable, "-m", "edgemim", "export", str(checkpoint), *options, "--out", str(out)]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - started
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": round(wall, 2), "cpu_s": round(cpu, 2)}


if __name__ == "__main__":
    main()
