"""Settings: recipes, `--set`, and the way from plain values into a dataclass and back."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemim.config import build, differences, load_recipe, merge, override, parse_value, recipe_names, resolved
from edgemim.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Masking:
    name: str = "random"
    mask_ratio: float = 0.75

    def __post_init__(self) -> None:
        if not 0 < self.mask_ratio < 1:
            raise ConfigError(f"mask_ratio must lie in (0, 1); got {self.mask_ratio}")


@dataclass(frozen=True, kw_only=True)
class Run:
    epochs: int
    masking: Masking = field(default_factory=Masking)
    amp: bool = False
    size: tuple[int, int] = (32, 32)
    blocks: tuple[int, ...] = ()
    limit: int | None = None
    label: str | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    backbone: dict[str, Any] = field(default_factory=dict)


def message_of(values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        build(Run, values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_defaults_fill_what_is_not_given() -> None:
    assert build(Run, {"epochs": 3}) == Run(epochs=3)


def test_a_nested_table_becomes_the_nested_dataclass() -> None:
    assert build(Run, {"epochs": 1, "masking": {"mask_ratio": 0.6}}).masking == Masking(mask_ratio=0.6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 1}, "unknown setting 'epoch'; did you mean 'epochs'?"),
        (
            {"epochs": 1, "masking": {"mask_ration": 0.6}},
            "unknown setting 'masking.mask_ration'; did you mean 'mask_ratio'?",
        ),
        ({}, "setting 'epochs' has no value; give it with --set or in the recipe"),
        ({"epochs": "3"}, "setting 'epochs' must be of type int; got '3'"),
        ({"epochs": 3.0}, "setting 'epochs' must be of type int; got 3.0"),
        ({"epochs": True}, "setting 'epochs' must be of type int; got True"),
        ({"epochs": None}, "setting 'epochs' must be of type int; got None"),
        ({"epochs": 1, "amp": 1}, "setting 'amp' must be of type bool; got 1"),
        ({"epochs": 1, "masking": 3}, "setting 'masking' is a table; got 3"),
        ({"epochs": 1, "backbone": 3}, "setting 'backbone' is a table; got 3"),
        ({"epochs": 1, "masking": {"mask_ratio": 1.5}}, "mask_ratio must lie in (0, 1); got 1.5"),
        (
            {"epochs": 1, "masking": {"mask_ratio": "x"}},
            "setting 'masking.mask_ratio' must be of type float; got 'x'",
        ),
        ({"epochs": 1, "size": [32]}, "setting 'size' takes 2 values; got [32]"),
        ({"epochs": 1, "size": 32}, "setting 'size' is a list; got 32"),
        ({"epochs": 1, "blocks": [1, "b"]}, "setting 'blocks[1]' must be of type int; got 'b'"),
        ({"epochs": 1, "limit": "many"}, "setting 'limit' must be of type int; got 'many'"),
        ({"epochs": 1, "precision": "fp8"}, "setting 'precision' must be one of 'fp32', 'bf16'; got 'fp8'"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_place_and_its_cure(values: dict[str, Any], message: str) -> None:
    assert message_of(values) == message


def test_none_is_refused_where_no_field_type_allows_it() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Either:
        value: int | str = 0

    with pytest.raises(ConfigError, match="'value' must be of type str; got None"):
        build(Either, {"value": None})


def test_an_integer_is_a_float_and_a_list_is_a_tuple() -> None:
    masking = build(Run, {"epochs": 1, "blocks": [1, 2], "size": (8, 16)})
    assert (masking.blocks, masking.size) == ((1, 2), (8, 16))
    assert type(build(Run, {"epochs": 1, "limit": 5}).limit) is int

    @dataclass(frozen=True, kw_only=True)
    class Rate:
        lr: float = 0.0

    assert type(build(Rate, {"lr": 1}).lr) is float


def test_the_word_none_empties_a_number_but_is_text_in_a_text() -> None:
    run = build(Run, {"epochs": 1, "limit": "none", "label": "none"})
    assert run.limit is None
    assert run.label == "none"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.75", 0.75),
        ("1e-3", 0.001),
        ("32", 32),
        ("true", True),
        ("[1, 2]", [1, 2]),
        ('"x y"', "x y"),
        ("vit_tiny_patch16_224", "vit_tiny_patch16_224"),
        ("no", "no"),
        ("a = b", "a = b"),
        ("", ""),
    ],
)
def test_a_value_is_toml_or_else_text(text: str, value: Any) -> None:
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


def test_later_overrides_win_and_the_settings_given_stay_as_they_are() -> None:
    settings = {"masking": {"mask_ratio": 0.75}}
    changed = override(settings, ["masking.mask_ratio=0.6", "masking.mask_ratio=0.5", "a.b.c=1", "label=x=y"])
    assert changed == {"masking": {"mask_ratio": 0.5}, "a": {"b": {"c": 1}}, "label": "x=y"}
    assert settings == {"masking": {"mask_ratio": 0.75}}


@pytest.mark.parametrize("pair", ["epochs", "=3", "masking.=3", ".a=3", ""])
def test_a_pair_without_name_or_value_is_refused(pair: str) -> None:
    with pytest.raises(ConfigError, match="--set takes NAME=VALUE"):
        override({}, [pair])


def test_a_pair_through_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="'epochs' is a value, not a table"):
        override({"epochs": 3}, ["epochs.first=1"])


def test_merge_goes_table_by_table() -> None:
    base = {"a": {"x": 1, "y": 2}, "b": 1, "c": {"z": 1}}
    assert merge(base, {"a": {"y": 3}, "b": {"w": 1}, "c": 5}) == {
        "a": {"x": 1, "y": 3},
        "b": {"w": 1},
        "c": 5,
    }


runs = st.builds(
    Run,
    epochs=st.integers(),
    masking=st.builds(Masking, name=st.text(), mask_ratio=st.floats(0.01, 0.99)),
    amp=st.booleans(),
    size=st.tuples(st.integers(), st.integers()),
    blocks=st.lists(st.integers(), max_size=4).map(tuple),
    limit=st.none() | st.integers(),
    label=st.none() | st.text(),
    precision=st.sampled_from(["fp32", "bf16"]),
    backbone=st.dictionaries(st.text(), st.integers() | st.text() | st.booleans(), max_size=3),
)


@given(runs)
def test_resolved_settings_come_back_through_json(run: Run) -> None:
    assert build(Run, json.loads(json.dumps(resolved(run)))) == run


def test_every_shipped_recipe_is_toml_and_found_under_its_name() -> None:
    for name in recipe_names():
        assert isinstance(load_recipe(name), dict)
        assert load_recipe(name.replace("_", "-")) == load_recipe(name)


def test_a_recipe_may_be_a_file_of_the_user(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("epochs = 3\n[masking]\nmask_ratio = 0.6\n")
    assert load_recipe(str(file)) == {"epochs": 3, "masking": {"mask_ratio": 0.6}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"epochs = ", "is not valid TOML"),
        (b"\xff\xfe\x00\x80", "cannot be read as text"),
    ],
)
def test_a_recipe_that_cannot_be_read_is_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "mine.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_recipe(str(file))
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown recipe 'no-such-recipe'"):
        load_recipe("no-such-recipe")


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_number_has_to_be_finite(value: str) -> None:
    with pytest.raises(ConfigError, match=rf"^setting 'masking.mask_ratio' must be a finite number; got {value}$"):
        build(Run, {"epochs": 1, "masking": {"mask_ratio": parse_value(value)}})


def test_settings_are_compared_as_json_keeps_them() -> None:
    now = {"seed": 0, "training": {"betas": (0.9, 0.95), "steps": 4}, "new": None}
    assert differences(json.loads(json.dumps(now)), now) == []
    assert differences({"seed": 0, "training": {"steps": 3}, "old": True}, now) == [
        "old was True, is None",
        "training.betas was None, is [0.9, 0.95]",
        "training.steps was 3, is 4",
    ]
