"""Write the tables of the documents from `benchmarks/results/*.json`; with `--check`, only compare.

    python scripts/tables.py [--check]

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; NAME is a key of `TABLES`. Nobody types a number.
Where the result of a table is missing it says that it was not yet measured.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import augmentation_tables
import backbone_tables
import int8_tables
import measuring_tables
import method_tables
import nvidia_tables
import streaming_tables
import sweep_tables
import teacher_cache_tables
import training_tables

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENTS = (
    "README.md",
    "benchmarks/README.md",
    "docs/backbones.md",
    "docs/int8.md",
    "docs/jetson.md",
    "docs/measuring.md",
    "docs/methods.md",
    "docs/sweep.md",
    "docs/training.md",
)
_PLACE = re.compile(r"<!-- table: ([\w-]+) -->\n(.*?)<!-- end -->", re.DOTALL)


def quickstart_cifar10() -> str:
    """The quickstart's table on CIFAR-10, and what it was measured on."""
    return _quickstart("quickstart_cifar10")


def quickstart_digits() -> str:
    """The quickstart's table on the embedded digits."""
    return _quickstart("quickstart_digits")


def quickstart_runs() -> str:
    """Every committed quickstart: how far apart the two students were each time."""
    lines = ["| run | top-1 with teacher | without | commit |", "| --- | --- | --- | --- |"]
    for file in sorted(RESULTS.glob("quickstart_*.json")):
        kept = _read(file.stem)
        top1 = (kept["result"][name]["top1"] for name in ("student", "student_without_teacher"))
        shown = " | ".join(f"{value:.4f}" for value in top1)
        lines.append(f"| {file.stem} | {shown} | `{kept['commit'][:12]}` |")
    return "\n".join([*lines, "", "Made by `python benchmarks/quickstart.py`, seed 0 each time."])


def data_cache() -> str:
    """Images per second by way of reading."""
    kept = _read("data_cache")
    lines = ["| reading | images/s per core (median of 5) | least to most |", "| --- | --- | --- |"]
    lines += [f"| {r['name']} | {r['images_per_s']:,} | {r['min']:,} to {r['max']:,} |" for r in kept["rows"]]
    return "\n".join([*lines, "", _origin(kept["command"], kept["device"]["cpu"], kept["commit"])])


def methods_cifar10() -> str:
    """The ranking on the CPU, with its picture."""
    picture = "![fine-tuned top-1 of each method, with intervals](methods_cifar10.png)"
    return f"{method_tables.ranking(_read(_CPU))}\n\n{picture}"


_CPU, _GPU = "methods_cifar10/cpu/summary", "methods_cifar10/gpu/summary"
_TRAINING = "pretrain_throughput"

TABLES: dict[str, Callable[[], str]] = {
    "quickstart-cifar10": quickstart_cifar10,
    "quickstart-digits": quickstart_digits,
    "quickstart-runs": quickstart_runs,
    "data-cache": data_cache,
    "host-check": lambda: nvidia_tables.host_check(_read("host_check")),
    "backbones": lambda: backbone_tables.coverage(_read("backbones")),
    "methods-short": lambda: method_tables.short(_read(_CPU)),
    "methods-cifar10": methods_cifar10,
    "methods-cifar10-claims": lambda: method_tables.claims(_read(_CPU)),
    "methods-cifar10-timed": lambda: method_tables.timed(_read(_CPU)),
    "methods-cifar10-timed-claims": lambda: method_tables.claims(_read(_CPU), "timed_claims"),
    "methods-cifar10-convnets": lambda: method_tables.convnets(_read(_CPU)),
    "methods-cifar10-convnet-claims": lambda: method_tables.claims(_read(_CPU), "convnet_claims"),
    "methods-cifar10-timed-convnets": lambda: method_tables.timed(_read(_CPU), "timed_convnets", "spark"),
    "methods-cifar10-timed-convnet-claims": lambda: method_tables.claims(_read(_CPU), "timed_convnet_claims"),
    "methods-cifar10-nothing": lambda: method_tables.nothing_shown(_read(_CPU)),
    "methods-cifar10-runs": lambda: method_tables.single_runs(_read(_CPU)),
    "methods-cifar10-gpu": lambda: method_tables.ranking(_read(_GPU)),
    "cae-alignment": lambda: method_tables.cae_alignment(_read("cae_alignment")),
    "methods-cost": lambda: method_tables.cost_of_an_update(_read("methods_cifar10/cpu/timing")),
    "calibration-memory": lambda: int8_tables.memory(_read("calibration_memory")),
    "export-time": lambda: int8_tables.export_time(_read("export_time")),
    "int8-accuracy": lambda: int8_tables.accuracy(_read("int8_accuracy")),
    "int8-x86": lambda: int8_tables.latency(_read_all("int8_x86_*")),
    "int8-onnxruntime": lambda: int8_tables.onnxruntime_forms(_read("int8_onnxruntime")),
    "overhead": lambda: measuring_tables.overhead(_read("overhead")),
    "compare-power": lambda: measuring_tables.compare_power(_read("compare_power_standard")),
    "augmentation": lambda: augmentation_tables.augmentation(_read("augmentation")),
    "streaming": lambda: streaming_tables.streaming(_read("streaming")),
    "sweep": lambda: sweep_tables.sweep(_read("sweep")),
    "teacher-cache": lambda: teacher_cache_tables.teacher_cache(_read("teacher_cache")),
    "pretrain-throughput": lambda: training_tables.throughput(_read(_TRAINING)),
    "pretrain-speedups": lambda: training_tables.speedups(_read(_TRAINING)),
    "pretrain-kernels": lambda: training_tables.where_time_goes(_read(_TRAINING)),
    "pretrain-curves": lambda: training_tables.curves(_read(_TRAINING)),
    "pretrain-real": lambda: training_tables.real_input(_read(_TRAINING)),
    "pretrain-throughput-gpu": lambda: training_tables.throughput(_read(f"{_TRAINING}_gpu")),
    "pretrain-speedups-gpu": lambda: training_tables.speedups(_read(f"{_TRAINING}_gpu")),
    "distillation-cost": lambda: method_tables.cost_of_distillation(_read("distillation_cost")),
}


def render(text: str) -> str:
    """A document with every table written anew."""

    def table(match: re.Match[str]) -> str:
        try:
            body = TABLES[match.group(1)]()
        except FileNotFoundError as error:
            body = f"Not yet measured: there is no `{Path(error.filename).relative_to(ROOT).as_posix()}`."
        return f"<!-- table: {match.group(1)} -->\n{body}\n<!-- end -->"

    return _PLACE.sub(table, text)


def _quickstart(name: str) -> str:
    from edgemim.pipeline.table import quickstart_table

    kept = _read(name)
    result = kept["result"]
    device = result["device"]
    isa = ", ".join(device["isa"]) or "no vector extension"
    facts = (
        f"{result['train_images']:,} training and {result['test_images']:,} test images, {result['seconds'] / 60:.1f} "
        f"minutes in all on {device['cpu']} ({device['cores']} cores, {isa}); latency of one image. "
        f"The report's verdict: {result['verdict']}."
    )
    return "\n\n".join([quickstart_table(result), facts, _origin(kept["command"], device["cpu"], kept["commit"])])


def _origin(command: str, cpu: str, commit: str) -> str:
    return f"Made by `{command}` on {cpu} at commit `{commit[:12]}`."


def _read(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text("utf-8"))


def _read_all(pattern: str) -> list[Any]:
    """Every result whose name fits, by name.

    Raises:
        FileNotFoundError: There is none.
    """
    files = sorted(RESULTS.glob(f"{pattern}.json"))
    if not files:
        raise FileNotFoundError(2, "no result", str(RESULTS / f"{pattern}.json"))
    return [json.loads(file.read_text("utf-8")) for file in files]


def main() -> None:
    """Write the documents; with `--check`, exit 1 where one differs."""
    stale = []
    for name in DOCUMENTS:
        path = ROOT / name
        before = path.read_text("utf-8")
        after = render(before)
        if after != before:
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(after, "utf-8")
    if stale and "--check" in sys.argv:
        sys.exit(f"not made from benchmarks/results: {', '.join(stale)}; run: python scripts/tables.py")


if __name__ == "__main__":
    main()
