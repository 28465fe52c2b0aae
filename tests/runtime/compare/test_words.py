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
            "on a quieter machine, or for longer (--mode standard)",
        ),
    ],
)
def test_the_verdict_says_how_much_and_how_sure(difference: str, ratio: float, said: str) -> None:
    pair = {"a": "x", "b": "y", "difference": difference, "ratio": ratio, "level": 0.999}
    assert verdict([pair | {"low": ratio - 0.01, "high": ratio + 0.01}], "quick") == said
    assert verdict([pair | {"low": ratio - 0.01, "high": ratio + 0.01}] * 2, "quick") == f"{said}; {said}"


@pytest.mark.parametrize(
    ("mode", "told"), [("standard", "--mode mlperf"), ("mlperf", "--seconds"), ("custom", "--seconds")]
)
def test_who_has_measured_for_long_is_told_of_what_is_longer(mode: str, told: str) -> None:
    pair = {"a": "x", "b": "y", "difference": "unclear", "ratio": 1.0, "level": 0.999, "low": 0.98, "high": 1.02}
    assert verdict([pair], mode).endswith(f"measure on a quieter machine, or for longer ({told})")
