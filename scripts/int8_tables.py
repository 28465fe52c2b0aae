"""The tables of docs/int8.md, from `benchmarks/results/*.json`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Result = Mapping[str, Any]


def memory(result: Result) -> str:
    """What calibrating takes."""
    lines = ["| workers | memory above the model's own (MiB) | CPU ms per image |", "| --- | --- | --- |"]
    lines += [f"| {r['workers']} | {r['above_own_mib']:.0f} | {r['cpu_ms_per_image']:.0f} |" for r in result["rows"]]
    same = "the same bytes" if result["same_statistics"] else "DIFFERENT statistics"
    facts = (
        f"{result['model']}, {result['images']:,} images of {result['image_size']} pixels, "
        f"{result['rows'][0]['tensors']} tensors observed; {same} whatever the workers. "
        f"The limit is {result['limit_mib']:.0f} MiB."
    )
    return "\n".join([*lines, "", facts, "", origin(result)])


def export_time(result: Result) -> str:
    """From a checkpoint to an INT8 bundle."""
    wall, cpu = (" / ".join(f"{row[key]:.1f}" for row in result["rows"]) for key in ("wall_s", "cpu_s"))
    met = "met" if result["met"] else "missed"
    lines = [
        "| model | calibration images | seconds, each run | CPU seconds, each run |",
        "| --- | --- | --- | --- |",
        f"| {result['model']} | {result['images']} | {wall} | {cpu} |",
        "",
        f"The limit is {result['limit_s']:.0f} s: {met}, with {result['wall_s']:.1f} s in the median.",
    ]
    return "\n".join([*lines, "", origin(result)])


def accuracy(result: Result) -> str:
    """Top-1 and agreement of every way to INT8."""
    lines = [
        "| model | top-1 (%) | loss against fp32 (points, 95 % interval) | same answer as fp32 (%) | cosine |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, row in result["rows"].items():
        low, high = row["drop_interval"]
        drop = "-" if name == "fp32" else f"{row['drop']:+.2f} ({low:+.2f} to {high:+.2f})"
        same = "-" if name == "fp32" else f"{100 * row['agreement']:.2f}"
        lines.append(f"| {name} | {row['top1']:.2f} | {drop} | {same} | {row['cosine']:.5f} |")
    model = result["model"]
    shape = ", ".join(f"{key} {value}" for key, value in model["arguments"].items())
    facts = (
        f"{result['images']:,} test images of CIFAR-10; {model['architecture']} ({shape}), "
        f"{result['calibration_images']} calibration images."
    )
    return "\n".join([*lines, "", facts, "", origin(result)])


def latency(results: Iterable[Result]) -> str:
    """Latency of every form, one table a machine and instruction set."""
    return "\n\n".join(_latency(result) for result in results)


def _latency(result: Result) -> str:
    models = result["rows"]
    levels = list(next(iter(models.values())))
    parts = [_at_level(level, result) for level in levels]
    facts = (
        "Cells: p50 in ms, then times OpenVINO fp32 (range over rounds). "
        "One thread, one image of 224 pixels, all of a model in turn."
    )
    if len(levels) > 1:
        facts += " What is capped is OpenVINO, which is why ONNX Runtime is not in those tables."
    return "\n\n".join([*parts, facts, origin(result)])


def _at_level(level: str, result: Result) -> str:
    found = {name: levels[level] for name, levels in result["rows"].items()}
    first = next(iter(found.values()))["candidates"]
    shown = str(result["level"]) if level == "native" else f"capped to {level}"
    lines = [f"| {shown} | {' | '.join(found)} |", f"| --- |{' --- |' * len(found)}"]
    for label in sorted(first, key=lambda label: float(first[label]["p50_ms"])):
        cells = [_cell(row["candidates"][label]) for row in found.values()]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    targets = [
        f"- {name}: {t['target']} = {t['value']:.2f}; limit {t['limit']:.2f}: {'met' if t['met'] else 'missed'}."
        for name, row in found.items()
        for t in row["targets"]
    ]
    return "\n".join([*lines, "", *targets]) if targets else "\n".join(lines)


def _cell(row: Mapping[str, Any]) -> str:
    median, low, high = row["times_fp32"]
    return f"{row['p50_ms']:.2f}, {median:.2f} ({low:.2f} to {high:.2f})"


def onnxruntime_forms(result: Result) -> str:
    """The forms of an INT8 ViT on ONNX Runtime."""
    names = [row["form"] for row in result["models"][0]["rows"]]
    widths = [str(model["width"]) for model in result["models"]]
    lines = [
        f"| form | {' | '.join(f'times fp32, {width} wide' for width in widths)} | cosine with fp32 |",
        f"| --- |{' --- |' * (len(widths) + 1)}",
    ]
    rows = {name: [_row(model, name) for model in result["models"]] for name in names}
    for name, found in sorted(rows.items(), key=lambda item: float(item[1][0]["versus_fp32"])):
        ratios = " | ".join(f"{row['versus_fp32']:.2f}" for row in found)
        lines.append(f"| {name} | {ratios} | {min(row['cosine'] for row in found):.5f} |")
    facts = (
        f"ViT of 12 blocks, {result['image_size']} pixels, random weights, {result['threads']} thread, "
        f"{result['clock']}; load average {result['device']['load_average_1min']} while it ran."
    )
    return "\n".join([*lines, "", facts, "", origin(result)])


def _row(model: Mapping[str, Any], form: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(row for row in model["rows"] if row["form"] == form)
    return found


def origin(result: Result) -> str:
    """The sentence that says what made a table."""
    return f"Made by `{result['command']}` on {result['device']['cpu']} at commit `{result['commit'][:12]}`."
