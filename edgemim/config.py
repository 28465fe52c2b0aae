"""Settings: a recipe in TOML, overridden by `--set a.b=c`, built into the dataclass that does the work.

The dataclass is the schema: its fields are the settings, its `__post_init__` checks them. Fields may be
bool, int, float, str, tuples of these, `| None`, or another such dataclass (a table in the recipe).
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import math
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from edgemim.errors import ConfigError
from edgemim.registry import did_you_mean

T = TypeVar("T")


def recipe_names() -> list[str]:
    """Names of the recipes that edgemim ships."""
    folder = resources.files("edgemim.recipes")
    return sorted(f.name[: -len(".toml")] for f in folder.iterdir() if f.name.endswith(".toml"))


def recipe_summary(name: str) -> str:
    """The comment with which a shipped recipe begins, on one line."""
    text = resources.files("edgemim.recipes").joinpath(f"{name}.toml").read_text("utf-8")
    lines = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    return " ".join(line.removeprefix("#").strip() for line in lines)


def load_recipe(name: str) -> dict[str, Any]:
    """Read a shipped recipe by its name, or a TOML file by its path.

    Raises:
        ConfigError: No such recipe or file, or it is not TOML.
    """
    if name.endswith(".toml"):
        return read_toml(Path(name), "recipe")
    stem = name.replace("-", "_")
    if stem not in recipe_names():
        known = [recipe.replace("_", "-") for recipe in recipe_names()]
        raise ConfigError(f"unknown recipe {name!r}{did_you_mean(stem.replace('_', '-'), known)}")
    text = resources.files("edgemim.recipes").joinpath(f"{stem}.toml").read_text("utf-8")
    return _parse(text, f"recipe {name}")


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The tables of a TOML file.

    Args:
        what: What the file holds, for the message.

    Raises:
        ConfigError: No such file, or it is not TOML.
    """
    if not path.is_file():
        raise ConfigError(f"{what} {path} does not exist")
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what} {path} cannot be read as text: {error}") from error
    return _parse(text, f"{what} {path}")


def _parse(text: str, what: str) -> dict[str, Any]:
    toml = _toml()
    try:
        tables: dict[str, Any] = toml.loads(text)
    except toml.TOMLDecodeError as error:
        raise ConfigError(f"{what} is not valid TOML: {error}") from error
    return tables


def override(settings: Mapping[str, Any], pairs: Sequence[str]) -> dict[str, Any]:
    """Apply `a.b=value` pairs, later ones winning; a value is TOML, or else the text itself.

    Raises:
        ConfigError: A pair has no `=`, or goes through something that is not a table.
    """
    result = copy.deepcopy(dict(settings))
    for pair in pairs:
        key, equals, text = pair.partition("=")
        names = [n.strip() for n in key.split(".")]
        if not equals or not all(names):
            raise ConfigError(f"--set takes NAME=VALUE or TABLE.NAME=VALUE; got {pair!r}")
        table = result
        for name in names[:-1]:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise ConfigError(f"--set {pair!r}: {name!r} is a value, not a table")
        table[names[-1]] = parse_value(text)
    return result


def parse_value(text: str) -> Any:
    """A TOML value (`0.75`, `true`, `[1, 2]`, `"x"`); anything else is the text as it stands."""
    toml = _toml()
    try:
        return toml.loads(f"value = {text}")["value"]
    except toml.TOMLDecodeError:
        return text.strip()


def _toml() -> Any:
    """The reader of TOML, imported on use: before Python 3.11 it is a package, which a board need not have."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`, table by table."""
    result = copy.deepcopy(dict(base))
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merge(result[key], value) if both else copy.deepcopy(value)
    return result


def build(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Make a settings dataclass from plain values.

    Args:
        cls: A dataclass whose fields have one of the types above.
        values: Field name to value; tables for nested dataclasses.
        where: Dotted place of these values, for messages.

    Raises:
        ConfigError: An unknown name, or a value of the wrong type or out of range.
    """
    assert dataclasses.is_dataclass(cls)
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for name in values:
        if name not in fields:
            raise ConfigError(f"unknown setting {_join(where, name)!r}{did_you_mean(name, fields)}")
    needed = [
        n
        for n, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and n not in values
    ]
    if needed:
        raise ConfigError(f"setting {_join(where, needed[0])!r} has no value; give it with --set or in the recipe")
    return cls(**{name: _convert(hints[name], value, _join(where, name)) for name, value in values.items()})


def resolved(settings: Any) -> Any:
    """A settings dataclass as plain values that go into JSON and back through `build`."""
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        return {f.name: resolved(getattr(settings, f.name)) for f in dataclasses.fields(settings) if f.init}
    if isinstance(settings, tuple | list):
        return [resolved(v) for v in settings]
    if isinstance(settings, Mapping):
        return {k: resolved(v) for k, v in settings.items()}
    return settings


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Where two tables of settings differ, as `NAME was OLD, is NEW`; one that is not there counts as None.

    Args:
        before: As they were written to JSON.
        now: Anything that JSON can hold; compared as it would be read back.
    """
    old, new = _flat(before), _flat(json.loads(json.dumps(now)))
    return [f"{k} was {old.get(k)!r}, is {new.get(k)!r}" for k in sorted(old | new) if old.get(k) != new.get(k)]


def _flat(table: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    pairs: dict[str, Any] = {}
    for key, value in table.items():
        name = _join(where, key)
        pairs |= _flat(value, name) if isinstance(value, Mapping) else {name: value}
    return pairs


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _convert(hint: Any, value: Any, name: str) -> Any:
    if hint is Any:
        return value
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, value, name)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):  # type: ignore[arg-type]
            return value
        if not isinstance(value, Mapping):
            raise ConfigError(f"setting {name!r} is a table; got {value!r}")
        return build(hint, value, name)  # type: ignore[arg-type]
    if origin is tuple:
        return _convert_tuple(arguments, value, name)
    if origin is dict or hint is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"setting {name!r} is a table; got {value!r}")
        return dict(value)
    if origin is typing.Literal:
        if value not in arguments:
            raise ConfigError(f"setting {name!r} must be one of {', '.join(map(repr, arguments))}; got {value!r}")
        return value
    if hint is float and type(value) is int:
        return float(value)
    if hint is float and type(value) is float and not math.isfinite(value):
        raise ConfigError(f"setting {name!r} must be a finite number; got {value!r}")
    if type(value) is not hint:
        raise ConfigError(f"setting {name!r} must be of type {hint.__name__}; got {value!r}")
    return value


def _convert_union(arguments: tuple[Any, ...], value: Any, name: str) -> Any:
    optional = type(None) in arguments
    if optional and (value is None or (value == "none" and str not in arguments)):
        return None
    for argument in arguments[:-1]:
        if argument is type(None):
            continue
        try:
            return _convert(argument, value, name)
        except ConfigError:
            continue
    last = [a for a in arguments if a is not type(None)][-1]
    return _convert(last, value, name)


def _convert_tuple(arguments: tuple[Any, ...], value: Any, name: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"setting {name!r} is a list; got {value!r}")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_convert(arguments[0], v, f"{name}[{i}]") for i, v in enumerate(value))
    if len(value) != len(arguments):
        raise ConfigError(f"setting {name!r} takes {len(arguments)} values; got {value!r}")
    return tuple(_convert(a, v, f"{name}[{i}]") for i, (a, v) in enumerate(zip(arguments, value, strict=True)))
