"""The tables of the comparison of methods, as Markdown; `tables.py` reads the results and puts them in their places."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Kept = Mapping[str, Any]
_SCORES = {"knn_top1": "k-NN (%)", "linear_top1": "linear probe (%)", "top1": "fine-tuned top-1 (%)"}
_BASELINES = ("scratch", "mae")
_SIZES = {"large": "L", "base": "B", "small": "S", "tiny": "Ti"}
_MEANING = {
    "scratch": ", fine-tuning only",
    "scratch-long": ", fine-tuning for all updates",
    "scratch-long-timed": ", fine-tuning for all of the time",
    "scratch-convnet": ", fine-tuning only",
    "scratch-long-convnet": ", fine-tuning for all updates",
    "scratch-long-convnet-timed": ", fine-tuning for all of the time",
}
_NOT_YET = "Not yet measured."
_FEWEST_SEEDS = 3
# How many rows that are no baselines the short table shows.
_BEST = 5
# Lists of claims in a summary, and what the rows of each have in common.
_CLAIMS = {
    "claims": "updates",
    "timed_claims": "seconds",
    "convnet_claims": "updates, convnets",
    "timed_convnet_claims": "seconds, convnets",
}


def short(kept: Kept) -> str:
    """Fine-tuned top-1 of the baselines and of the best of the other ranked rows."""
    best = _best_first(kept["ranked"])
    others = [r for r in best if r["name"] not in ("mae", *_MEANING)]
    shown = [r for r in best if r not in others[_BEST:]]
    rows = [(_name(r), _mean(r["top1"]), _gain(r["top1_minus_scratch"])) for r in shown]
    which = f"The baselines and the best {_BEST} of {len(others)} methods." if len(others) > _BEST else ""
    table = _table(("student", _SCORES["top1"], _minus("scratch")), rows)
    return _page(table, which, _protocol(kept), _origin(kept))


def ranking(kept: Kept) -> str:
    """Rows with seeds enough for a ranking, the best first, and the teacher."""
    rows = [_cells(row, _BASELINES) for row in _best_first(kept["ranked"])]
    table = _table(("student", "seeds", *_SCORES.values(), *map(_minus, _BASELINES)), rows)
    return _page(table, _protocol(kept), _teacher(kept), _missing(kept["missing"]), _origin(kept))


def timed(kept: Kept, part: str = "timed", reference: str = "mae") -> str:
    """Rows in the time of another's updates, the best first; without seeds enough they have no difference to it.

    Args:
        kept: The summary.
        part: Name of the list in it.
        reference: The other.
    """
    if not kept.get(part):
        return _NOT_YET
    rows = []
    for row in _best_first(kept[part]):
        name, seeds, *others = _cells(row, (reference,))
        rows.append((name, seeds, f"{row['student_updates'] - kept['finetune_updates']:,}", *others))
    head = ("student", "seeds", "updates", *_SCORES.values(), _minus(reference))
    facts = (
        f"As above, but each row has as many updates as take the time of the {kept['updates']:,} of `{reference}`, and "
        f"then {kept['finetune_updates']:,} of fine-tuning; rows without `-timed` cost about as much and are those of "
        "above."
    )
    return _page(_table(head, rows), facts, _origin(kept))


def convnets(kept: Kept) -> str:
    """Rows whose student is a convnet, the best first."""
    if not kept.get("convnets"):
        return _NOT_YET
    rows = [_cells(row, ("scratch-convnet",)) for row in _best_first(kept["convnets"])]
    table = _table(("student", "seeds", *_SCORES.values(), _minus("scratch-convnet")), rows)
    shape = kept["convnet"]
    student = (
        f"ConvNeXt V2, {_listed(shape['depths'])} blocks, {_listed(shape['dims'])} wide, a stem of "
        f"{shape['patch_size']} pixel"
    )
    return _page(table, _protocol(kept, student), _origin(kept))


def claims(kept: Kept, part: str = "claims") -> str:
    """What the rows of a list show, refute, or leave open.

    Args:
        kept: The summary.
        part: Name of the list in it.
    """
    if not kept.get(part):
        return _NOT_YET
    rows = [(c["claim"], _gain(c), len(c["seeds"]), _verdict(c)) for c in kept[part]]
    head = ("claim (fine-tuned top-1)", "difference in points", "seeds", "verdict")
    caveats = " ".join(kept["caveats"]) if part == "claims" else ""
    return _page(_table(head, rows), caveats, _origin(kept))


def nothing_shown(kept: Kept) -> str:
    """Claims that were tried with seeds enough and not shown, the refuted ones first."""
    found = [
        (claim, equal)
        for part, equal in _CLAIMS.items()
        for claim in kept.get(part, ())
        if len(claim["seeds"]) >= _FEWEST_SEEDS and not claim["shown"]
    ]
    found.sort(key=lambda pair: not pair[0]["refuted"])
    rows = [(claim["claim"], equal, _gain(claim), _verdict(claim)) for claim, equal in found]
    head = ("claim (fine-tuned top-1)", "at equal", "difference in points", "verdict")
    return _page(_table(head, rows), _origin(kept))


def single_runs(kept: Kept) -> str:
    """Rows with too few seeds, by name: their order says nothing."""
    if not kept["not_ranked"]:
        return _NOT_YET
    rows = [_cells(row, ()) for row in sorted(kept["not_ranked"], key=lambda row: str(row["name"]))]
    return _page(_table(("run, not ranked", "seeds", *_SCORES.values()), rows), _origin(kept))


def cost_of_an_update(kept: Kept) -> str:
    """Seconds and memory by method, the cheapest first; then those of convnets."""
    rows = [
        (name, f"{1000 * row['median_s']:.0f}", _ratio(row), f"{row['peak_mib']:.0f}" if "peak_mib" in row else "-")
        for name, row in sorted(kept["rows"].items(), key=lambda item: (_is_convnet(item[1]), item[1]["ratio"]))
    ]
    looks = [
        f"`{name}` takes {1000 * row['alone_s']:.0f} ms without its {row['looks']} looks at all images in a run, "
        f"each of {row['look_s']:.1f} s, which are spread over the updates."
        for name, row in kept["rows"].items()
        if "looks" in row
    ]
    last = "The last rows are those of convnets." if any(map(_is_convnet, kept["rows"].values())) else ""
    facts = (
        f"Updates of {kept['batch_size']} images, threads: {kept['threads']}; medians of {kept['rounds']} rounds in "
        "turn. The peak is the whole process, Python and libraries included."
    )
    table = _table(("method", "ms per update", "times `mae`", "peak MiB"), rows)
    return _page(table, " ".join(filter(None, (facts, *looks, last))), _origin(kept))


def cost_of_distillation(kept: Kept) -> str:
    """A dmae step beside one that runs the whole teacher on all patches."""
    rows = [
        (
            " to ".join(_model(row[who]) for who in ("teacher", "student")),
            row["decoder"],
            *(f"{row['steps'][name]['median_s']:.2f}" for name in ("dmae", "whole teacher")),
            _ratio(row),
            "-" if row["target"] is None else f"below {row['target']}: {'met' if row['met'] else 'missed'}",
        )
        for row in kept["rows"].values()
    ]
    head = ("teacher to student", "decoder", "`dmae` step (s)", "whole teacher (s)", "ratio", "target")
    facts = (
        f"Images of {kept['image_size']} pixels, {kept['batch_size']} in a batch, threads: {kept['threads']}, "
        f"{kept['precision']}; medians of {kept['rounds']} rounds in turn."
    )
    return _page(_table(head, rows), facts, _origin(kept))


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _page(*paragraphs: str) -> str:
    return "\n\n".join(p for p in paragraphs if p)


def _missing(labels: Iterable[str]) -> str:
    """The runs that are not done, as `mae seed 0`, row by row."""
    seeds: dict[str, list[str]] = {}
    for label in labels:
        row, _, seed = label.partition(" seed ")
        seeds.setdefault(row, []).append(seed)
    rows = [f"`{row}` (seed {_listed(of_row)})" for row, of_row in seeds.items()]
    return f"Not done yet: {', '.join(rows)}." if rows else ""


def _best_first(rows: Sequence[Kept]) -> list[Kept]:
    return sorted(rows, key=lambda row: -float(row["top1"]["mean"]))


def _cells(row: Kept, baselines: Iterable[str]) -> tuple[object, ...]:
    """Name, seeds, scores, and the differences of fine-tuned top-1 to those of other rows."""
    scores = (_mean(row[metric]) for metric in _SCORES)
    return _name(row), len(row["seeds"]), *scores, *(_gain(row[f"top1_minus_{other}"]) for other in baselines)


def _name(row: Kept) -> str:
    return f"`{row['name']}`{_MEANING.get(row['name'], '')}"


def _minus(other: str) -> str:
    return f"minus `{other}`"


def _listed(numbers: Iterable[object]) -> str:
    return ", ".join(map(str, numbers))


def _is_convnet(row: Kept) -> bool:
    return bool(row.get("student") == "convnet")


def _model(name: str) -> str:
    size = name.removeprefix("vit_").removesuffix("_patch16_224")
    return f"ViT-{_SIZES.get(size, size)}"


def _mean(score: Kept | None) -> str:
    """In percent, with half of the interval where there is one."""
    return "-" if score is None else f"{100 * score['mean']:.1f}{_plus_minus(score)}"


def _gain(gain: Kept | None) -> str:
    """In points of percent."""
    absent = gain is None or gain["difference"] is None
    return "-" if absent or gain is None else f"{100 * gain['difference']:+.1f}{_plus_minus(gain)}"


def _plus_minus(of: Kept) -> str:
    return "" if of["interval"] is None else f" ± {50 * (of['interval'][1] - of['interval'][0]):.1f}"


def _ratio(row: Kept) -> str:
    return f"{row['ratio']:.2f} ({row['ratio_range'][0]:.2f} to {row['ratio_range'][1]:.2f})"


def _verdict(claim: Kept) -> str:
    return "shown" if claim["shown"] else "refuted" if claim["refuted"] else "not shown"


def _protocol(kept: Kept, student: str = "") -> str:
    """What the rows have in common.

    Args:
        kept: The summary.
        student: In words; the ViT where it is empty.
    """
    data, shape = kept["data"], kept["student"]
    vit = f"ViT, {shape['depth']} blocks, {shape['embed_dim']} wide, patch {shape['patch_size']}"
    return (
        f"CIFAR-10, {data['train_images']:,} training and {data['test_images']:,} test images. Student: "
        f"{student or vit}; {kept['updates']:,} updates of {kept['batch_size']} images by the method, then "
        f"{kept['finetune_updates']:,} of fine-tuning. ± is half a 95 % t-interval over seeds."
    )


def cae_alignment(kept: Kept) -> str:
    """Weights of CAE's alignment beside pixels, on images that were held out of the training set."""
    shown = (*_SCORES.values(),)
    lines = [f"| `method.alignment_weight` | {' | '.join(shown)} |", f"| --- |{' --- |' * len(shown)}"]
    for row in kept["rows"]:
        scores = " | ".join(f"{100 * row[metric]:.1f}" for metric in _SCORES)
        lines.append(f"| {row['alignment_weight']:g} | {scores} |")
    return "\n".join([*lines, "", f"One seed; {kept['changed']}.", "", _origin(kept)])


def _teacher(kept: Kept) -> str:
    teacher, shape = kept["teacher"], kept["teacher_model"]
    if teacher is None:
        return ""
    updates = teacher["updates"]
    scores = ", ".join(f"{shown} {100 * teacher[metric]:.1f}" for metric, shown in _SCORES.items())
    return (
        f"Teacher: {shape['depth']} blocks, {shape['embed_dim']} wide, {updates['pretrained']:,} updates of MAE on the "
        f"same images, then {updates['finetuned']:,} of fine-tuning: {scores.replace(' (%)', '')}."
    )


def _origin(kept: Kept) -> str:
    """Of a result of one process, or of a summary of many."""
    machine = kept.get("machine") or {
        "cpu": [kept["device"]["cpu"]],
        "gpu": [kept["device"]["gpu"]] if kept["device"]["gpu"] else [],
        "commits": [kept["commit"]],
    }
    where = ", ".join(machine["gpu"] or machine["cpu"])
    commits = ", ".join(f"`{_short_hash(commit)}`" for commit in machine["commits"])
    return f"Made by `{kept['command']}` on {where} at commit {commits}."


def _short_hash(commit: str) -> str:
    return commit[:12] + ("+changes" if commit.endswith("+changes") else "")
