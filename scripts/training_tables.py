"""The tables of docs/training.md on speed, from `benchmarks/results/pretrain_throughput*.json`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Kept = Mapping[str, Any]
_OWN = ("edgemim", "edgemim, compiled")


_NOT_YET = "Not yet measured."


def throughput(kept: Kept) -> str:
    """Images per second of every form of a step."""
    head = (
        "case",
        "arithmetic",
        "step",
        "batch",
        "images/s (range)",
        "forward + backward + update (ms)",
        "of the matrix rate (TFLOP/s)",
        "peak MiB",
    )
    rows = [_speed(row, who) for row in kept["rows"] for who in row["contenders"]]
    turns = ", ".join(dict.fromkeys(f"{r['rounds']} x {r['steps_per_round']} ({r['precision']})" for r in kept["rows"]))
    peaks = "the GPU's memory" if kept["device"]["gpu"] else "the whole process, libraries included"
    facts = (
        f"Threads: {kept['threads']}. Medians of rounds x steps in turn: {turns}. "
        "The matrix rate is that of big matrices, measured just before: a shared machine has not always the same. "
        f"Peaks are of {peaks}."
    )
    return _page(_table(head, rows), facts, _origin(kept, "rows"))


def speedups(kept: Kept) -> str:
    """Our forms against the released ones, with the targets."""
    rows = [
        (
            row["case"],
            row["precision"],
            other,
            *(_ratio(found["ratios"].get(who)) for who in _OWN),
            "-" if found["target"] is None else f"{found['target']:g}x: {'met' if found['met'] else 'missed'}",
        )
        for row in kept["rows"]
        for other, found in row["speedups"].items()
    ]
    return _page(_table(("case", "arithmetic", "against", *_OWN, "target"), rows), _origin(kept, "rows"))


def where_time_goes(kept: Kept) -> str:
    """Shares of a step by kind of kernel."""
    shares = [(row, who, found["kernel_shares"]) for row in kept["rows"] for who, found in row["contenders"].items()]
    kinds = list(dict.fromkeys(kind for _, _, found in shares for kind in found))
    rows = [
        (row["case"], row["precision"], who, *(f"{100 * found.get(kind, 0):.0f} %" for kind in kinds))
        for row, who, found in shares
    ]
    return _page(_table(("case", "arithmetic", "step", *kinds), rows), _origin(kept, "rows"))


def curves(kept: Kept) -> str:
    """How far apart loss curves are."""
    if not kept["curves"]:
        return _NOT_YET
    rows = []
    for row in kept["curves"]:
        for who, losses in row["curves"].items():
            apart = row["relative_difference"].get(who)
            cells = [f"{apart[name]:.1e}" for name in ("mean", "most", "end")] if apart else ["-"] * 3
            rows.append((row["case"], row["precision"], who, f"{losses[0]:.4f} to {losses[-1]:.4f}", *cells))
    head = ("case", "arithmetic", "run", "loss, first to last", "mean difference", "most", "of the last tenth")
    lengths = "; ".join(
        f"{row['case']} in {row['precision']}: {row['steps']} steps of {row['batch_size']} images ({row['images']})"
        for row in kept["curves"]
    )
    facts = f"Differences are relative to the released step. {lengths}."
    return _page(_table(head, rows), facts, _origin(kept, "curves"))


def real_input(kept: Kept) -> str:
    """Whole runs on images from a disk."""
    if not kept["real"]:
        return _NOT_YET
    rows = [
        (
            row["case"],
            row["data"],
            row["precision"],
            row["batch_size"],
            f"{row['images_per_s']:g}",
            f"{100 * row['data_wait']:.1f} %",
        )
        for row in kept["real"]
    ]
    head = ("case", "images", "arithmetic", "batch", "images/s", "waiting for images")
    return _page(_table(head, rows), _origin(kept, "real"))


def _speed(row: Kept, who: str) -> tuple[object, ...]:
    found = row["contenders"][who]
    least, most = found["images_per_s_range"]
    return (
        row["case"],
        row["precision"],
        who,
        found["batch_size"],
        f"{found['images_per_s']:.4g} ({least:.4g} to {most:.4g})",
        " + ".join(f"{ms:,.0f}" for ms in found["parts_ms"].values()),
        f"{100 * found['utilisation']:.0f} % of {row['matrix_tflops']:g}",
        f"{found.get('gpu_peak_mib', found['peak_mib']):,.0f}",
    )


def _ratio(given: Sequence[float] | None) -> str:
    return "-" if given is None else f"{given[0]:.2f}x ({given[1]:.2f} to {given[2]:.2f})"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _page(*paragraphs: str) -> str:
    return "\n\n".join(paragraphs)


def _origin(kept: Kept, part: str) -> str:
    """Every row says what made it: a file is filled by several commands."""
    made = dict.fromkeys((row["command"], row["commit"][:12]) for row in kept[part])
    where = kept["device"]["gpu"] or kept["device"]["cpu"]
    return " ".join(f"Made by `{command}` on {where} at commit `{commit}`." for command, commit in made)
