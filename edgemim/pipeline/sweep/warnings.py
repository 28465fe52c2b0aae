"""What the reports of many combinations warn of, told once each, with whose report says it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

# Numbers, and lists of names behind a colon, differ from one measurement to the next; the sentence is the same.
_DIFFERS = re.compile(r"\d[\d.,]*")
_NAMED = 3


def told_once(caveats: Mapping[str, Sequence[str]]) -> list[str]:
    """Every warning of every report: what all say alike as it is, the rest with the measurements that say it.

    Args:
        caveats: By name of the combination.
    """
    groups: dict[str, dict[str, str]] = {}
    for name, lines in caveats.items():
        for line in lines:
            groups.setdefault(_kind(line), {}).setdefault(name, line)
    return [_sentence(group, len(caveats)) for group in groups.values()]


def _kind(line: str) -> str:
    return _DIFFERS.sub("#", line.split(": ")[0])


def _sentence(group: Mapping[str, str], of_all: int) -> str:
    names, lines = list(group), list(dict.fromkeys(group.values()))
    if len(lines) == 1 and len(names) == of_all:
        return lines[0]
    if len(names) == 1:
        return f"{names[0]}: {lines[0]}"
    who = ", ".join(names[:_NAMED]) + (" ..." if len(names) > _NAMED else "")
    same = lines[0] if len(lines) == 1 else f"{lines[0]}; likewise the others, whose reports have their own numbers"
    return f"in {len(names)} of {of_all} measurements ({who}): {same}"
