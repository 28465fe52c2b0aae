"""What many reports warn of, told once."""

from __future__ import annotations

from edgemim.pipeline.sweep.warnings import told_once


def test_what_all_say_is_told_as_it_is_and_once() -> None:
    assert told_once({"a": ["virtual"], "b": ["virtual"]}) == ["virtual"]


def test_what_one_says_is_told_with_its_name() -> None:
    assert told_once({"a": ["virtual", "fp32 was left out: no memory"], "b": ["virtual"]}) == [
        "virtual",
        "a: fp32 was left out: no memory",
    ]


def test_what_differs_in_its_numbers_alone_is_one_sentence() -> None:
    lines = {name: [f"the machine was busy: other processes took {n} % of the CPUs"] for n, name in enumerate("abcd")}
    (line,) = told_once({**lines, "e": []})
    assert line.startswith("in 4 of 5 measurements (a, b, c ...): the machine was busy: other processes took 0 %")
    assert line.endswith("likewise the others, whose reports have their own numbers")


def test_nothing_comes_of_nothing() -> None:
    assert told_once({}) == []
    assert told_once({"a": []}) == []
