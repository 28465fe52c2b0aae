"""`edgemim.runtime.gates`: reading limits, and holding numbers against them."""

from __future__ import annotations

import pytest

from edgemim.errors import ConfigError
from edgemim.runtime.gates import GATES, Missing, check_gates, check_limits, parse_gates


def test_pairs_become_limits_and_the_later_one_wins() -> None:
    assert parse_gates(["p99_ms=8", " top1.max_drop = 0.01 ", "p99_ms=7.5"]) == {
        "p99_ms": 7.5,
        "top1.max_drop": 0.01,
    }


@pytest.mark.parametrize("pair", ["p99_ms", "p99_ms=", "p99_ms=fast", "=8=9"])
def test_a_pair_that_is_not_name_and_number_is_refused(pair: str) -> None:
    with pytest.raises(ConfigError, match="such as p99_ms=8; got"):
        parse_gates([pair])


def test_an_unknown_gate_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown gate 'p99ms'; did you mean 'p99_ms'"):
        parse_gates(["p99ms=8"])


@pytest.mark.parametrize(
    ("name", "limit"), [("p50_ms", -1), ("top1.min", 95), ("size_mb", float("nan")), ("cosine.min", True)]
)
def test_a_limit_out_of_its_range_is_refused(name: str, limit: float) -> None:
    with pytest.raises(ConfigError, match=f"gate {name} .* lies in"):
        check_limits({name: limit})


@pytest.mark.parametrize(
    ("name", "value", "passed"),
    [
        ("p99_ms", 8.0, True),
        ("p99_ms", 8.001, False),
        ("top1.min", 0.9, True),
        ("top1.min", 0.8999, False),
        ("top1.max_drop", -0.02, True),
        ("agreement.min", 0.5, False),
    ],
)
def test_a_limit_itself_is_kept(name: str, value: float, passed: bool) -> None:
    limit = {"p99_ms": 8.0, "top1.min": 0.9, "top1.max_drop": 0.01, "agreement.min": 0.99}[name]
    assert [r.passed for r in check_gates({name: limit}, {name: value})] == [passed]


@pytest.mark.parametrize("name", GATES)
def test_a_number_that_was_not_measured_misses_its_gate_and_says_why(name: str) -> None:
    (result,) = check_gates({name: 0.5}, {name: Missing(reason="the images have no labels")})
    assert not result.passed
    assert result.value is None
    assert result.sentence() == f"{name} could not be measured: the images have no labels"


def test_a_missed_gate_says_its_number_and_its_limit() -> None:
    (result,) = check_gates({"p99_ms": 8}, {"p99_ms": 9.123456})
    assert result.sentence() == "p99_ms is 9.123, limit 8"
