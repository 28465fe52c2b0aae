"""Does `edgemim compare` find a difference of 5 %, and none where there is none?

    python benchmarks/compare_power.py [--mode standard] [--repeats 10]

Compares a ViT-Ti (224 pixels, 12 blocks, random weights, ONNX Runtime, one thread) with itself, and with itself slowed
by 5 %, so many times each. The slowed one hashes bytes after every run, as many as take 5 % of the model's time, which
is measured in turns right before each comparison: real work on the same core, which a busy machine slows alike. In
every second comparison the slowed one comes first, and the other is to be found faster.

Right is: no difference of the same thing twice; `slower` or `faster`, as it is, of the slowed one. `unclear` is wrong
in both. The result is written after every comparison, and a second call with the same settings goes on from there.

Takes about 5 minutes per comparison in `standard` mode, 1 in `quick`. What would make the answer wrong: nothing else
may start or end on the machine that takes part in one side only, which short turns make unlikely; a machine whose
noise is larger than it can average out in the time of the mode is told as `unclear`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx
from _parts.machine import describe_machine
from _parts.vit_forms import CLASSES, SIZE, Form, build_vit

from edgemim.artifact import create_artifact, load_artifact, write_text
from edgemim.preprocess import Preprocess
from edgemim.runtime.backends._base import Arrays, Engine, Session
from edgemim.runtime.backends.onnxruntime import OnnxRuntimeBackend
from edgemim.runtime.bundle import write_bundle
from edgemim.runtime.compare.compare import compare
from edgemim.runtime.device import describe_device
from edgemim.runtime.predict.choice import Choice, find_choice
from edgemim.runtime.targets import TARGETS

HERE = Path(__file__).parent
SLOWED_BY = 0.05
KINDS = ("same", "slowed")
_GOLDEN = 2
_CALIBRATION_RUNS = 50
_BLOCK = b"\0" * 1_000_000
_NS_PER_MS = 1e6


class SlowedSession(Session):
    """A session that hashes so many bytes after every run."""

    def __init__(self, session: Session, count: int) -> None:
        self._session, self._bytes = session, b"\0" * count

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        outputs = self._session.run(inputs)
        hashlib.sha256(self._bytes).digest()
        return outputs

    def close(self) -> None:
        self._session.close()


class SlowedBackend(OnnxRuntimeBackend):
    """ONNX Runtime, and work beside it."""

    name: ClassVar[str] = "slowed"

    def __init__(self, count: int) -> None:
        self._count = count

    def open(self, engine: Engine) -> Session:
        return SlowedSession(super().open(engine), self._count)


def main() -> None:
    """Run the comparisons that are not in the file yet, and write it after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", default="standard", choices=["quick", "standard"])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS, help="by default both, in turns")
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--out", type=Path, help="by default results/compare_power_MODE.json")
    arguments = parser.parse_args()
    out = arguments.out or HERE / "results" / f"compare_power_{arguments.mode}.json"
    settings = {"mode": arguments.mode, "width": arguments.width, "slowed_by": SLOWED_BY, "threads": 1}
    rows = _earlier(out, settings)
    with tempfile.TemporaryDirectory() as folder:
        bundle = make_bundle(Path(folder), arguments.width)
        for number in range(arguments.repeats):
            for kind in arguments.kinds:
                if any((row["kind"], row["number"]) == (kind, number) for row in rows):
                    continue
                rows.append(one_comparison(kind, number, bundle, Path(folder), arguments.mode))
                _write(out, settings, rows)
                sys.stderr.write(f"{kind} {number}: {rows[-1]['difference']}, {rows[-1]['verdict']}\n")
    _write(out, settings, rows)
    sys.stderr.write(f"{json.dumps(summarise(rows))}\nwrote {out}\n")


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


def one_comparison(kind: str, number: int, bundle: Path, folder: Path, mode: str) -> dict[str, Any]:
    """Compare once; `right` says whether it came out as it is."""
    plain, began = _choose(bundle, OnnxRuntimeBackend()), time.perf_counter()
    extra = None if kind == "same" else calibrate(plain)
    other = plain if extra is None else _choose(bundle, SlowedBackend(extra))
    first = kind == "slowed" and number % 2 == 1
    given = (other, plain) if first else (plain, other)
    report = compare(given, folder / "report", mode=mode, threads=1, cache=folder / "cache", overwrite=True)
    (pair,) = report["pairs"]
    truth = "none" if kind == "same" else "faster" if first else "slower"
    return {
        "kind": kind,
        "number": number,
        "right": pair["difference"] == truth,
        "truth": truth,
        **{key: pair[key] for key in ("difference", "ratio", "low", "high", "n", "block", "blocks")},
        "hashed_bytes": extra,
        "p50_ms": [entry["latency"]["p50_ms"] for entry in report["entries"]],
        "cv": [entry["latency"]["cv"] for entry in report["entries"]],
        "runs": [entry["latency"]["n"] for entry in report["entries"]],
        "seconds": round(time.perf_counter() - began, 1),
        "marks": report["environment"]["marks"],
        "verdict": report["verdict"],
    }


def calibrate(choice: Choice) -> int:
    """Bytes whose hash takes `SLOWED_BY` of the model's median; both are timed in turns."""
    backend = choice.pair.backend
    session = backend.open(backend.compile(choice.bundle, choice.pair.candidate, Path(), choice.threads))
    inputs, _ = next(choice.bundle.golden_batches())
    model, block = [], []
    for _ in range(_CALIBRATION_RUNS):
        moments = [time.perf_counter_ns()]
        session.run(inputs)
        moments.append(time.perf_counter_ns())
        hashlib.sha256(_BLOCK).digest()
        moments.append(time.perf_counter_ns())
        model.append(moments[1] - moments[0])
        block.append(moments[2] - moments[1])
    session.close()
    # The ratio within a turn: what slows the machine slows both.
    return round(SLOWED_BY * len(_BLOCK) * statistics.median(m / b for m, b in zip(model, block, strict=True)))


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How many came out right, and how, by kind."""
    found = {}
    for kind in KINDS:
        of_kind = [row for row in rows if row["kind"] == kind]
        said = [row["difference"] for row in of_kind]
        found[kind] = {
            "comparisons": len(of_kind),
            "right": sum(row["right"] for row in of_kind),
            "said": {word: said.count(word) for word in sorted(set(said))},
            "half_width": round(statistics.median(row["high"] / row["low"] - 1 for row in of_kind) / 2, 5)
            if of_kind
            else None,
        }
    return found


def _choose(bundle: Path, backend: OnnxRuntimeBackend) -> Choice:
    return find_choice(bundle, describe_device(), candidate="fp32", backend=backend, threads=1)


def _outputs(model: onnx.ModelProto, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"images": image[None]})[0] for image in inputs])


def _earlier(out: Path, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The comparisons that an earlier call with these settings made."""
    if not out.is_file():
        return []
    found = json.loads(out.read_text("utf-8"))
    if found["settings"] != settings:
        raise SystemExit(f"{out} is of other settings ({found['settings']}); remove it, or choose another --out")
    rows: list[dict[str, Any]] = found["rows"]
    return rows


def _write(out: Path, settings: Mapping[str, Any], rows: list[dict[str, Any]]) -> None:
    result = {
        "question": (__doc__ or "").split("\n")[0],
        "command": shlex.join(["python", "benchmarks/compare_power.py", *sys.argv[1:]]),
        "settings": dict(settings),
        "summary": summarise(rows),
        "rows": rows,
        "runtimes": {"onnxruntime": version("onnxruntime")},
        **describe_machine(),
    }
    write_text(out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
