"""Parity per block and sensitivity per layer, where somebody measured them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgemim.report.blocks import parity_chart, sensitivity_chart, worst_blocks
from edgemim.report.markup import Column, Html, bad, good, join, table, tag
from edgemim.report.page import Part
from edgemim.report.source import Source
from edgemim.runtime.report.cells import number, sentence


def precision_part(source: Source) -> Part:
    """The part; where neither is known, only why."""
    content: list[Html] = []
    if source.parity is not None:
        content += _parity(source.parity)
    if source.sensitivity is not None:
        content += [tag("h3", "Sensitivity: what each layer costs in INT8"), sensitivity_chart(source.sensitivity)]
    names = [name for name in ("parity", "sensitivity") if getattr(source, name) is None]
    content += [tag("p", f"No {name} here: {source.missing[name]}.", class_="note") for name in names]
    return Part(name="precision", title="Where precision is lost", content=join(content))


def _parity(ladder: Mapping[str, Any]) -> list[Html]:
    picture = parity_chart(ladder)
    columns = (
        Column(name="flavour", kind=""),
        Column(name="", kind=""),
        Column(name="weakest block", kind=""),
        *(Column(name=name) for name in ("SNR dB", "cosine", "output SNR dB")),
        Column(name="in words", kind="free"),
    )
    lines = []
    for step, block in worst_blocks(ladder["steps"]):
        block, output = block or {}, step["output"] or {}
        lines.append(
            (
                "",
                [
                    f"{step['name']} with {step['against']}",
                    bad("departs") if step["departs"] else good("follows"),
                    block.get("name"),
                    number(block.get("snr_db"), 1),
                    number(block.get("cosine"), 5),
                    number(output.get("snr_db"), 1),
                    sentence(step["verdict"]),
                ],
            )
        )
    found = table(columns, lines, caption=f"{ladder['method']}.")
    return [tag("h3", "Parity, block by block"), picture or Html(""), found]
