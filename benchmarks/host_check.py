"""What does NVIDIA's own builder make of the candidates of a Jetson bundle: does it take them, and in how many kernels?

    python benchmarks/host_check.py [--models NAME ...]

For each model the bundle that `edgemim export` writes, once with pixels and once with floats as input; each row is one
of its candidates as TensorRT-RTX parses it and builds it for the GPU that stands in for the target's: 8.6 for Orin
(8.7), 12.0 for Thor (11.0). Kernels, INT8 products with weights, attentions that are one kernel, softmaxes outside of
one. It takes two minutes per model. Weights are random and the calibration is noise: neither changes a
structure.

The reference, from the same builder on a plain export of ViT-Ti: fp16 100 kernels, INT8 linears 124, INT8 attention 112
with 48 INT8 products and 12 INT8 attentions.

What would make the answer wrong: TensorRT on the board is not TensorRT-RTX, and may fuse otherwise; fewer kernels need
not be faster. Candidates in opset 17 are built in the graph's own float32 here, which TensorRT 8.6 replaces by float16.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any, Literal

from _parts.machine import command, describe_machine
from _parts.one_run import write_result
from _parts.random_vit import random_checkpoint
from _parts.side_by_side import say_on_stderr

from edgemim.pipeline.host_check import check_candidates
from edgemim.pipeline.make_bundle import BundleSettings, make_bundle
from edgemim.runtime.targets import TARGETS

HERE = Path(__file__).parent
MODELS = ("vit_tiny_patch16_224", "vit_small_patch16_224", "convnextv2_atto", "mobilenetv4_conv_small")
TARGET_NAMES = ("jetson-orin-nano", "jetson-thor")
INPUTS: tuple[Literal["pixels", "float"], ...] = ("pixels", "float")
REFERENCE = {"fp16": 100, "int8-linear": 124, "int8-attention": 112}
_CALIBRATION = 8


def main() -> None:
    """Make every bundle, and write `results/host_check.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "host_check.json")
    arguments = parser.parse_args()
    machine = describe_machine()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models:
            checkpoint = random_checkpoint(Path(folder) / name, name)
            for kind in INPUTS:
                rows += check(checkpoint, Path(folder) / f"{name}-{kind}", name, kind)
    result = {
        "question": (__doc__ or "").split("\n")[0],
        "command": command("host_check.py"),
        "reference": REFERENCE,
        "rows": rows,
        **machine,
    }
    write_result(arguments.out, result)
    say_on_stderr(f"wrote {arguments.out}")


def check(checkpoint: Path, out: Path, name: str, kind: Literal["pixels", "float"]) -> list[dict[str, Any]]:
    """The rows of one bundle; what a Thor runs is a part of what an Orin may."""
    settings = BundleSettings(
        target=TARGET_NAMES[0],
        calibration=f"random:{_CALIBRATION}",
        calibration_count=_CALIBRATION,
        evaluation="none",
        input=kind,
    )
    bundle = make_bundle(checkpoint, out, settings, say=lambda _: None)
    rows = []
    for target in TARGET_NAMES:
        for found in check_candidates(bundle, TARGETS.get(target), say=say_on_stderr):
            row = {key: value for key, value in found.items() if key != "mha_inputs"}
            rows.append({"model": name, "target": target, "input": kind, **row})
            say_on_stderr(f"{name}, {target}, {kind}: {row['candidate']}: {row['kernels']} kernels")
    return rows


if __name__ == "__main__":
    main()
