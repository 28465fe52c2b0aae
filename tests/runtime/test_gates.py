"""`edgemim.runtime.gates`: reading limits, and holding numbers against them."""

from __future__ import annotations

import pytest

from edgemim.errors import ConfigError
from edgemim.runtime.gates import (
    GATES,
    Estimate,
    Missing,
    check_gates,
    check_limits,
    check_names,
    gates_from_table,
    parse_gates,
)


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


def test_a_number_that_need_not_be_measured_keeps_its_gate_and_still_says_so() -> None:
    unread = {"energy_mj": Missing(reason="there is no sensor"), "p99_ms": 9.0}
    energy, p99 = check_gates({"energy_mj": 5, "p99_ms": 8}, unread, allowed=["energy_mj", "p99_ms"])
    assert energy.passed
    assert energy.sentence() == "energy_mj could not be measured: there is no sensor, which was allowed"
    assert not p99.passed  # it was measured


@pytest.mark.parametrize(
    ("name", "limit", "value", "sentence"),
    [
        ("p99_ms", 8, 9.123456, "p99_ms is 9.123, 1.1 above its limit 8"),
        ("agreement.min", 0.99, 0.9, "agreement.min is 0.9, 0.09 below its limit 0.99"),
        ("p99_ms", 8, 7.5, "p99_ms is 7.5, limit 8"),
    ],
)
def test_a_missed_gate_says_by_how_much(name: str, limit: float, value: float, sentence: str) -> None:
    (result,) = check_gates({name: limit}, {name: value})
    assert result.sentence() == sentence
    assert result.missed_by == (None if result.passed else pytest.approx(abs(value - limit)))


def test_a_table_may_nest_gates_as_toml_does() -> None:
    table = {"p99_ms": 8, "top1": {"min": 0.9, "max_drop": 0.005}, "allow_unmeasured": ["energy_mj"]}
    limits, allowed = gates_from_table(table)
    assert limits == {"p99_ms": 8.0, "top1.min": 0.9, "top1.max_drop": 0.005}
    assert allowed == ("energy_mj",)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"top1": {"mim": 0.9}}, "unknown gate 'top1.mim'; did you mean 'top1.min'"),
        ({"p99_ms": "fast"}, "gate p99_ms .* got 'fast'"),
        ({"allow_unmeasured": ["energy"]}, "unknown gate 'energy'; did you mean 'energy_mj'"),
        ({"allow_unmeasured": "energy_mj"}, "allow_unmeasured is a list of gates; got 'energy_mj'"),
    ],
)
def test_a_table_with_something_else_is_refused(table: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        gates_from_table(table)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown gate 'energy'"):
        check_names(["p99_ms", "energy"])


@pytest.mark.parametrize(
    ("value", "worst", "may_be", "sentence"),
    [
        (0.009, 0.016, 0.016, "top1.max_drop is 0.009, limit 0.01: kept, but the images allow up to 0.016"),
        (0.002, 0.01, None, "top1.max_drop is 0.002, limit 0.01"),
        (0.012, 0.02, None, "top1.max_drop is 0.012, 0.002 above its limit 0.01"),
    ],
)
def test_an_estimate_is_judged_by_its_value_and_says_what_the_images_leave_open(
    value: float, worst: float, may_be: float | None, sentence: str
) -> None:
    (result,) = check_gates({"top1.max_drop": 0.01}, {"top1.max_drop": Estimate(value=value, worst=worst)})
    assert result.passed == (value <= 0.01)
    assert (result.may_be, result.sentence()) == (may_be, sentence)
