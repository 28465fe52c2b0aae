"""From a recipe and the command's options to the settings of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgemim.config import load_recipe, merge, override
from edgemim.errors import ConfigError


def run_values(
    recipe: str,
    *,
    options: dict[str, Any],
    backbone: str | None = None,
    sets: Sequence[str] | None = None,
    init: Path | None = None,
) -> dict[str, Any]:
    """The recipe, overridden by the options that were given, overridden by `--set`.

    Args:
        recipe: Name or file.
        options: Dotted setting to value; None: not given.
        backbone: Another one than the recipe's loses the arguments that the recipe has for its own.
        sets: `TABLE.NAME=VALUE` pairs. Another masking than the recipe's loses what only the recipe's has.
        init: Checkpoint to start from, which says what the backbone is.
    """
    values = load_recipe(recipe)
    own = values.get("backbone")
    if backbone is not None and (not isinstance(own, Mapping) or own.get("name") != backbone):
        values["backbone"] = {"name": backbone}
    if init is not None:
        values |= {"init": str(init), "backbone": {} if backbone is None else values["backbone"]}
    for dotted, value in options.items():
        if value is not None:
            values = merge(values, _nested(dotted, value))
    if options.get("training.epochs") is not None and options.get("training.steps") is None:
        values["training"].pop("steps", None)
    return _of_its_masking(values, override(values, sets or []), override({}, sets or []))


def _of_its_masking(recipe: Mapping[str, Any], values: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without those of the recipe's masking that another one has not; what was given stays.

    Args:
        recipe: The settings without `--set`.
        values: With it.
        given: By it alone.
    """
    from edgemim.masking import MASKINGS

    before, now, own = (table.get("masking", {}) for table in (recipe, values, given))
    tables = all(isinstance(table, Mapping) for table in (before, now, own))
    if not tables or "name" not in own or own["name"] == before.get("name", "random"):
        return values
    known = {"name", *own, *(field.name for field in dataclasses.fields(MASKINGS.get(str(own["name"]))))}
    return values | {"masking": {name: value for name, value in now.items() if name in known}}


def require_method(table: Any, *, command: str) -> None:
    """Refuse a method that there is not, or that only another command runs.

    Args:
        table: The settings of the method; without a `name` nothing is said yet.
        command: `pretrain` or `distill`.
    """
    from edgemim.methods import METHODS

    given = table.get("name") if isinstance(table, Mapping) else None
    if given is None:
        return
    name = METHODS.find(str(given))
    commands = METHODS.describe(name).sections["command"].split(", ")
    if command in commands:
        return
    if command == "distill":
        raise ConfigError(f"method {name!r} is no distillation; run: edgemim {commands[0]} --method {name}")
    raise ConfigError(
        f"method {name!r} learns from a teacher; run: edgemim {commands[0]} --method {name} --teacher TEACHER"
    )


def training_options(
    *,
    data: str | None,
    epochs: float | None,
    steps: int | None,
    batch_size: int | None,
    seed: int | None,
    deterministic: bool,
) -> dict[str, Any]:
    """The options that every training command has, by their dotted settings."""
    return {
        "data": data,
        "training.epochs": epochs,
        "training.steps": steps,
        "training.batch_size": batch_size,
        "seed": seed,
        "deterministic": deterministic or None,
    }


def _nested(dotted: str, value: Any) -> dict[str, Any]:
    for name in reversed(dotted.split(".")):
        value = {name: value}
    nested: dict[str, Any] = value
    return nested
