"""Which mixes are proposed, and when none is."""

from __future__ import annotations

from edgemim.quantize.recipe import Recipe
from edgemim.quantize.search.mixes import accuracy_mixes, hopeless, kind_mixes
from edgemim.quantize.sensitivity import Damage, Sensitivity, UnitDamage
from edgemim.quantize.sites import Site, Unit

RECIPE = Recipe(placement="linear", thresholds={})


def _damage(noise):
    return Damage(noise=noise, cosine=1.0, agreement=None)


def _unit(name):
    site = Site(module=name, role="input", value="x", readers=())
    return Unit(name=name, kind=name.rpartition(".")[2], sites=(site,))


def _row(name, precision, ms):
    return {"name": name, "precision": precision, "latency": None if ms is None else {"p50_ms": ms}}


def test_the_units_that_give_most_back_are_left_out_first():
    # What is left when a unit is in float: c gives most back, then a.
    left = {"a": 0.5, "b": 0.9, "c": 0.1, "d": 0.8}
    units = tuple(
        UnitDamage(unit=name, kind="fc1", block="", enabled=_damage(0.1), disabled=_damage(noise))
        for name, noise in left.items()
    )
    found = Sensitivity(placement="linear", units=units, everything=_damage(1.0), images=1)
    mixes = accuracy_mixes("linear", RECIPE, found)
    assert [(mix.name, sorted(mix.recipe.left_out)) for mix in mixes] == [
        ("int8-linear-less1", ["c"]),
        ("int8-linear-less2", ["a", "c"]),
    ]


def test_each_kind_of_layer_is_given_back_in_turn():
    units = [_unit(f"blocks.{i}.{kind}") for i in range(2) for kind in ("qkv", "fc1")]
    mixes = kind_mixes("int8-linear", RECIPE, units)
    assert [(mix.name, sorted(mix.recipe.left_out)) for mix in mixes] == [
        ("int8-linear-no-qkv", ["blocks.0.qkv", "blocks.1.qkv"]),
        ("int8-linear-no-fc1", ["blocks.0.fc1", "blocks.1.fc1"]),
    ]
    # With qkv gone already, fc1 is all there is.
    assert kind_mixes("x", mixes[0].recipe, units) == []


def test_int8_far_behind_the_fastest_float_form_is_hopeless():
    rows = [_row("fp32", "fp32", 10.0), _row("bf16", "bf16", 5.0), _row("int8-linear", "int8", 6.5)]
    sentence = hopeless(rows)
    assert sentence is not None
    assert "int8-linear, takes 1.30 times as long as bf16" in sentence
    assert hopeless([*rows, _row("int8-attention", "int8", 6.0)]) is None
    assert hopeless([_row("int8-linear", "int8", 6.0)]) is None


def test_without_a_measured_int8_candidate_there_is_nothing_to_mix():
    assert hopeless([_row("fp32", "fp32", 10.0), _row("int8-linear", "int8", None)]) is not None
