"""Which answers became which: from all answers beside the report, else from the images that it shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from edgemim.report.look import Look
from edgemim.report.markup import Column, Html, table
from edgemim.report.source import Source

_SHOWN = 8

Pair = tuple[int, int]


def confusions_table(judged: Sequence[Look], source: Source, names: Sequence[str] | None) -> Html | None:
    """The most frequent changes, a column of counts for each candidate; None where no answer changed."""
    counts, images = _counts(judged, source)
    total: Counter[Pair] = sum(counts.values(), Counter())
    if not total:
        return None
    changed = [look for look in judged if counts[look]]
    columns = (
        Column(name="fp32 says", kind=""),
        Column(name="instead", kind=""),
        *(Column(name=str(look.number)) for look in changed),
    )
    lines = [
        ("", [called(ours, names), called(theirs, names), *(counts[look][ours, theirs] or "" for look in changed)])
        for (ours, theirs), _ in total.most_common(_SHOWN)
    ]
    more = f", the {_SHOWN} most frequent of {len(total)}" if len(total) > _SHOWN else ""
    caption = f"Answers that changed among {images} images{more}; columns are the candidates' numbers."
    return table(columns, lines, caption=caption)


def called(number: int, names: Sequence[str] | None) -> str:
    """The name of a class, or its number."""
    return names[number] if names and 0 <= number < len(names) else f"class {number}"


def _counts(judged: Sequence[Look], source: Source) -> tuple[dict[Look, Counter[Pair]], int]:
    """By candidate, how often which answer of fp32 became which; and among how many images."""
    reference = next((look for look in judged if look.name == source.report["reference"]), None)
    ours = None if reference is None else source.samples.get(f"{reference.key}.answer")
    if ours is not None:
        found = {look: Counter[Pair]() for look in judged}
        for look in judged:
            theirs = source.samples.get(f"{look.key}.answer")
            if theirs is not None:
                pairs = np.stack([ours, theirs], axis=1)[ours != theirs]
                found[look].update((int(a), int(b)) for a, b in pairs)
        return found, len(ours)
    flips = source.report["flips"]
    shown = {
        look: Counter(
            (int(flip["reference"]), int(answer))
            for flip in flips
            if (answer := flip["answers"].get(look.name)) not in (None, flip["reference"])
        )
        for look in judged
    }
    return shown, len(flips)
