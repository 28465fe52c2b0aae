"""The page's colours can be read, by light and by dark."""

from __future__ import annotations

import re

import pytest

from edgemim.report.drawing import SERIES
from edgemim.report.style import STYLE

TEXT = ("ink", "muted", "good", "bad", "note", "link")
# WCAG 2.2: 1.4.3 for text, 1.4.11 for what must be seen to understand a picture.
LEAST_TEXT, LEAST_DRAWN = 4.5, 3.0


def variables(scheme: str) -> dict[str, str]:
    """The variables of the style, by light or by dark."""
    first, second = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})\b", first if scheme == "light" else second))


def luminance(colour: str) -> float:
    """Relative luminance of sRGB, as WCAG defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_contrast_of_black_on_white_is_21() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_on_every_ground(scheme: str) -> None:
    colours = variables(scheme)
    grounds = ("page", "surface", "good-soft", "bad-soft", "note-soft")
    found = {(text, ground): contrast(colours[text], colours[ground]) for text in TEXT[:2] for ground in grounds}
    found |= {(text, "page"): contrast(colours[text], colours["page"]) for text in TEXT}
    found |= {(text, f"{text}-soft"): contrast(colours[text], colours[f"{text}-soft"]) for text in ("good", "bad")}
    assert {pair: value for pair, value in found.items() if value < LEAST_TEXT} == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_series_can_be_seen(scheme: str) -> None:
    colours = variables(scheme)
    drawn = [colours[f"s{number}"] for number in range(1, len(SERIES) + 1)]
    assert [colour for colour in drawn if contrast(colour, colours["page"]) < LEAST_DRAWN] == []
    assert len(set(drawn)) == len(SERIES)
    if scheme == "light":
        assert tuple(drawn) == SERIES
