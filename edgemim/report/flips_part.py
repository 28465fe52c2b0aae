"""Accuracy against fp32: what was lost, which classes lost it, and the images whose answer changed."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgemim.report.candidates_table import Field, candidates_table
from edgemim.report.confusions import called, confusions_table
from edgemim.report.look import Look, badge
from edgemim.report.markup import Column, Html, details, join, table, tag
from edgemim.report.page import Part
from edgemim.report.source import Source
from edgemim.runtime.report.accuracy_table import COLUMNS, Cell, accuracy_notes
from edgemim.runtime.report.cells import any_has, sentence, too_few_images
from edgemim.runtime.report.check_page import images_in_words, reference_of
from edgemim.runtime.report.read import FLIPS

_CLASSES, _CARDS = 10, 12
_TYPES = {b"\xff\xd8": "jpeg", b"\x89P": "png", b"RI": "webp"}


def accuracy_part(shown: Sequence[Look], source: Source) -> Part | None:
    """The part; None where no candidate was judged."""
    judged = [look for look in shown if look.row["accuracy"] is not None]
    if not judged:
        return None
    rows = [look.row for look in judged]
    report = source.report
    columns = [column for column in COLUMNS if any_has(rows, "accuracy", column[0])]
    reference = reference_of(report)
    lead = images_in_words(rows) + (f", each compared with {reference}." if reference else ".")
    content: list[Html] = [tag("p", lead, class_="lead")]
    if columns:
        content.append(_lost(judged, columns))
        content.append(tag("p", accuracy_notes(rows), class_="note"))
    content += [tag("p", sentence(text), class_="note strong") for text in too_few_images(rows)]
    content += _classes(judged, report.get("class_names"))
    content += _flips(judged, source)
    return Part(name="accuracy", title="Accuracy", content=join(content))


def _lost(judged: Sequence[Look], columns: Sequence[Any]) -> Html:
    fields = [Field(name=heading, cell=_cell(cell)) for _, heading, cell in columns]
    return candidates_table(judged, fields, caption="Against fp32 on the same images.")


def _cell(cell: Cell) -> Callable[[Look], object]:
    return lambda look: cell(look.row["accuracy"])


def _classes(judged: Sequence[Look], names: Sequence[str] | None) -> list[Html]:
    """The classes that changed most, of the candidate that changed most."""
    changed = [(look, _changes(look)) for look in judged]
    look, classes = max(changed, key=lambda pair: (pair[0].chosen, sum(abs(c["change"]) for c in pair[1])))
    if not any(c["change"] for c in classes):
        look, classes = max(changed, key=lambda pair: sum(abs(c["change"]) for c in pair[1]))
    classes = [entry for entry in classes if entry["change"]][:_CLASSES]
    if not classes:
        return []
    columns = (Column(name="class", kind=""), *(Column(name=name) for name in ("images", "fp32", "here", "change")))
    lines = [
        (
            "",
            [
                called(c["class"], names),
                c["n"],
                f"{c['reference_top1']:.3f}",
                f"{c['top1']:.3f}",
                f"{c['change']:+.3f}",
            ],
        )
        for c in classes
    ]
    caption = f"{look.name}: top-1 of the {len(classes)} classes that changed most."
    return [tag("h3", "Classes"), table(columns, lines, caption=caption)]


def _changes(look: Look) -> list[dict[str, Any]]:
    classes = [c for c in look.row["accuracy"].get("per_class") or [] if c.get("reference_top1") is not None]
    found = [{**c, "change": c["top1"] - c["reference_top1"]} for c in classes]
    return sorted(found, key=lambda c: -abs(c["change"]))


def _flips(judged: Sequence[Look], source: Source) -> list[Html]:
    names, flips = source.report.get("class_names"), source.report["flips"]
    confusions = confusions_table(judged, source, names)
    cards = [_card(flip, source, names, judged) for flip in flips]
    if confusions is None and not cards:
        return []
    content = [tag("h3", "Images whose answer changed"), confusions or Html("")]
    if cards:
        content.append(tag("ul", *cards[:_CARDS], class_="cards", role="list"))
    if cards[_CARDS:]:
        content.append(details(f"{len(cards) - _CARDS} more", tag("ul", *cards[_CARDS:], class_="cards", role="list")))
    return content


def _card(flip: Mapping[str, Any], source: Source, names: Sequence[str] | None, judged: Sequence[Look]) -> Html:
    label, reference = flip["label"], called(flip["reference"], names)
    others = [(look, flip["answers"][look.name]) for look in judged if look.name in flip["answers"]]
    different = [(look, called(answer, names)) for look, answer in others if answer != flip["reference"]]
    truth = [tag("div", "is ", tag("b", called(label, names)))] if label is not None else []
    answers = [tag("div", badge(look), " ", tag("b", answer)) for look, answer in different]
    return tag(
        "li",
        _thumbnail(flip, source, reference),
        *truth,
        tag("div", "fp32: ", tag("b", reference)),
        *answers,
        tag("div", f"image {flip['index']}", class_="muted"),
    )


def _thumbnail(flip: Mapping[str, Any], source: Source, reference: str) -> Html:
    file = flip.get("file")
    data = None if file is None else source.picture(file) or source.picture(f"{FLIPS}/{file}")
    kind = None if data is None else _TYPES.get(data[:2])
    if data is None or kind is None:
        return Html("")
    text = f"image {flip['index']} of the evaluation set, which fp32 calls {reference}"
    return tag("img", src=f"data:image/{kind};base64,{base64.b64encode(data).decode()}", alt=text, loading="lazy")
