"""Does `edgemim compare` find a difference of 5 %, and none where there is none?

    python benchmarks/compare_power.py [--mode standard] [--repeats 10] [--numbers 0-4] [--out FILE]
    python benchmarks/compare_power.py --merge FILE FILE --out benchmarks/results/compare_power_standard.json

Compares a small ViT (128 wide, 12 blocks, 224 pixels, random weights, ONNX Runtime, one thread) with itself, and with
itself slowed by 5 %, so many times each. The slowed one hashes a few bytes over and over after every run, for 5 % of
the model's time, which is measured once, before the first comparison: real work on the same core, which a busy machine
slows alike and which leaves the model's caches alone. In every second comparison the slowed one comes first, and the
other is to be found faster.

Right is: no difference of the same thing twice; `slower` or `faster`, as it is, of the slowed one. `unclear` is wrong
in both. Both times are taken in every run of the slowed one; where the work was less than 4.5 % or more than 5.5 % of
the model's time (`injected_share`), the row says nothing about 5 % and does not count: it stays in the file, and the
next call makes another. The result is written after every comparison, and a call with the same settings goes on from
there. Two calls pinned to a core each can share the numbers, into two files, which `--merge` puts together; every row
says which call made it, with its command and commit.

Takes 4 minutes per comparison in `standard` mode, and up to 10 where it is unclear at first (20 comparisons: an hour
and a half, or half of that on two cores); a few times less in `quick`. What would make the answer wrong: nothing else
may start or end on the machine that takes part in one side only, which short turns make unlikely; a machine whose
noise is larger than it can average out in the time of the mode is told as `unclear`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from _parts.machine import command, describe_machine
from _parts.power_rows import KINDS, Row, is_made, is_valid, merged, numbers, part_of, read, summarise
from _parts.side_by_side import say_on_stderr
from _parts.slowed import Calibration, SlowedBackend, calibrate
from _parts.vit_forms import CLASSES, SIZE, Form, build_vit

from edgemim.artifact import create_artifact, load_artifact, write_text
from edgemim.preprocess import Preprocess
from edgemim.runtime.backends.onnxruntime import OnnxRuntimeBackend
from edgemim.runtime.bundle import write_bundle
from edgemim.runtime.compare.compare import compare
from edgemim.runtime.device import describe_device
from edgemim.runtime.predict.choice import Choice, find_choice
from edgemim.runtime.targets import TARGETS

HERE = Path(__file__).parent
SLOWED_BY = 0.05
_GOLDEN = 2
# Of the first of three passes: 700 runs in all, half a minute.
_CALIBRATION_PAIRS = 100


def main() -> None:
    """Run the comparisons that are not in the file yet, and write it after each; or put files together."""
    arguments = parse(sys.argv[1:])
    out = arguments.out or HERE / "results" / f"compare_power_{arguments.mode}.json"
    if arguments.merge:
        settings, rows, parts = merged(arguments.merge)
    else:
        settings = {"mode": arguments.mode, "width": arguments.width, "slowed_by": SLOWED_BY, "threads": 1}
        rows, parts = read(out, settings)
        compare_all(arguments, out, settings, rows, parts)
    write(out, settings, rows, parts)
    say_on_stderr(f"{json.dumps(summarise(rows))}\nwrote {out}")


def parse(words: Sequence[str]) -> argparse.Namespace:
    """What the caller wants."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", default="standard", choices=["quick", "standard"])
    parser.add_argument("--repeats", type=int, default=10, help="of each kind: numbers from 0 on")
    parser.add_argument("--numbers", type=numbers, help="in place of --repeats: this part of them, such as 0-4")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS, help="by default both, in turns")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--out", type=Path, help="by default results/compare_power_MODE.json")
    parser.add_argument("--merge", type=Path, nargs="+", help="files to put together; nothing is measured")
    found = parser.parse_args(words)
    if found.merge and not found.out:
        parser.error("--merge needs --out")
    return found


def compare_all(
    arguments: argparse.Namespace,
    out: Path,
    settings: Mapping[str, Any],
    rows: list[Row],
    parts: list[dict[str, Any]],
) -> None:
    """Make every comparison that no row of these is of, one attempt each."""
    wanted = [(n, kind) for n in arguments.numbers or range(arguments.repeats) for kind in arguments.kinds]
    left = [(number, kind) for number, kind in wanted if not is_made(rows, kind, number)]
    if not left:
        return
    with tempfile.TemporaryDirectory() as folder:
        bundle = make_bundle(Path(folder), arguments.width)
        known = next((Calibration(**part["calibration"]) for part in parts), None)
        calibration = known or calibrate(_choose(bundle, OnnxRuntimeBackend()), SLOWED_BY, pairs=_CALIBRATION_PAIRS)
        say_on_stderr(f"{calibration.hashed_bytes:,} bytes take {calibration.share:.2%} of the model's time")
        part = part_of(parts, this_call(calibration))
        for number, kind in left:
            row = one_comparison(kind, number, calibration, bundle, Path(folder), arguments.mode)
            rows.append(row | {"part": part})
            write(out, settings, rows, parts)
            say_on_stderr(f"{kind} {number}: {row['difference']}, {row['verdict']}{_doubt(row)}")


def this_call(calibration: Calibration) -> dict[str, Any]:
    """What made the rows of this call."""
    return {
        "command": command("compare_power.py"),
        "cpus": sorted(os.sched_getaffinity(0)),
        "calibration": calibration.to_dict(),
        "runtimes": {"onnxruntime": version("onnxruntime")},
        **describe_machine(),
    }


def make_bundle(folder: Path, width: int) -> Path:
    """A bundle of the ViT for x86, without evaluation images."""
    contract = Preprocess(size=(SIZE, SIZE))
    pixels = np.random.default_rng(0).integers(0, 256, (_GOLDEN, SIZE, SIZE, 3), dtype=np.uint8)
    inputs = contract.normalise(pixels)
    model = build_vit(Form(), width=width)
    with create_artifact(folder / "onnx", "onnx") as draft:
        onnx.save(model, draft.path("fp32.onnx"))
        golden = {"inputs": inputs, "pixels": pixels, "outputs": _outputs(model, inputs)}
        for name, array in golden.items():
            np.save(draft.path(f"golden/{name}.npy"), array)
        parameters = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
        shape = [1, 3, SIZE, SIZE]
        draft.content = {
            "architecture": f"random ViT of width {width}",
            "num_classes": CLASSES,
            "class_names": [str(number) for number in range(CLASSES)],
            "parameters": parameters,
            "preprocess": contract.to_dict(),
            "input": {
                "name": "images",
                "dtype": "float32",
                "layout": "NCHW",
                "shape": shape,
                "encoding": "normalised",
            },
            "output": {"name": "logits", "shape": [1, CLASSES]},
            "flavours": [{"name": "fp32", "precision": "fp32", "opset": 17, "file": "fp32.onnx"}],
            "golden": {name: f"golden/{name}.npy" for name in golden} | {"count": _GOLDEN},
            "calibration": None,
        }
    artifact = load_artifact(folder / "onnx", "onnx")
    return write_bundle(artifact, folder / "bundle", target=TARGETS.get("x86")).path


def one_comparison(
    kind: str, number: int, calibration: Calibration, bundle: Path, folder: Path, mode: str
) -> dict[str, Any]:
    """Compare once; `right` says whether it came out as it is, `valid` whether that counts."""
    plain, began = _choose(bundle, OnnxRuntimeBackend()), time.perf_counter()
    slowed = SlowedBackend(calibration.hashed_bytes)
    other = plain if kind == "same" else _choose(bundle, slowed)
    first = kind == "slowed" and number % 2 == 1
    given = (other, plain) if first else (plain, other)
    report = compare(given, folder / "report", mode=mode, threads=1, cache=folder / "cache", overwrite=True)
    (pair,) = report["pairs"]
    truth = "none" if kind == "same" else "faster" if first else "slower"
    share = None if kind == "same" else round(slowed.shares.median(), 5)
    return {
        "kind": kind,
        "number": number,
        "valid": is_valid(kind, share),
        "right": pair["difference"] == truth,
        "truth": truth,
        **{key: pair[key] for key in ("difference", "ratio", "low", "high", "n", "block", "blocks")},
        "injected_share": share,
        "p50_ms": [entry["latency"]["p50_ms"] for entry in report["entries"]],
        "cv": [entry["latency"]["cv"] for entry in report["entries"]],
        "runs": [entry["latency"]["n"] for entry in report["entries"]],
        "extended": report["protocol"]["extended"],
        "seconds": round(time.perf_counter() - began, 1),
        "marks": report["environment"]["marks"],
        "verdict": report["verdict"],
    }


def _doubt(row: Row) -> str:
    return "" if row["valid"] else f"; not counted: the work was {row['injected_share']:.1%} of the model's time"


def _choose(bundle: Path, backend: OnnxRuntimeBackend) -> Choice:
    return find_choice(bundle, describe_device(), candidate="fp32", backend=backend, threads=1)


def _outputs(model: onnx.ModelProto, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"images": image[None]})[0] for image in inputs])


def write(out: Path, settings: Mapping[str, Any], rows: Sequence[Row], parts: Sequence[Mapping[str, Any]]) -> None:
    """The file, whole or not at all."""
    result = {
        "question": (__doc__ or "").split("\n")[0],
        "settings": dict(settings),
        "summary": summarise(rows),
        "parts": list(parts),
        "rows": list(rows),
    }
    write_text(out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
