"""`edgemim.runtime.compare.words`: the sentence."""

from __future__ import annotations

import pytest

from edgemim.runtime.compare.words import verdict


@pytest.mark.parametrize(
    ("difference", "ratio", "said"),
    [
        ("slower", 1.052, "x takes 5.2% more time than y (99.9% interval of the ratio 1.0420 to 1.0620)"),
        ("slower", 3.5, "x takes 3.50 times as long as y (99.9% interval of the ratio 3.4900 to 3.5100)"),
        ("faster", 0.95, "x takes 5.0% less time than y (99.9% interval of the ratio 0.9400 to 0.9600)"),
        ("none", 1.0, "x and y do not differ by more than 1% (99.9% interval of the ratio 0.9900 to 1.0100)"),
        (
            "unclear",
            1.005,
            "whether x and y differ by more than 1% is unclear (99.9% interval of the ratio 0.9950 to 1.0150): measure "
            "for longer",
        ),
    ],
)
def test_the_verdict_says_how_much_and_how_sure(difference: str, ratio: float, said: str) -> None:
    pair = {"a": "x", "b": "y", "difference": difference, "ratio": ratio, "level": 0.999}
    assert verdict([pair | {"low": ratio - 0.01, "high": ratio + 0.01}]) == said
    assert verdict([pair | {"low": ratio - 0.01, "high": ratio + 0.01}] * 2) == f"{said}; {said}"
