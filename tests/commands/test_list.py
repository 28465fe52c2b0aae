"""`edgemim list`: every registry, backbones and recipes, without importing what it lists."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from edgemim.registry import find_registry, registry_kinds

KINDS = [*registry_kinds(), "backbones", "recipes"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_listed_with_a_summary(cli: Any, kind: str) -> None:
    rows = cli("list", kind, "--json").json[kind]
    assert rows
    assert all(row["name"] and row["summary"] for row in rows)
    assert [row["name"] for row in rows] == sorted(row["name"] for row in rows)
    plain = cli("list", kind)
    assert (plain.code, plain.err) == (0, "")
    assert [line.split()[0] for line in plain.out.splitlines()] == [row["name"] for row in rows]


@pytest.mark.parametrize("kind", registry_kinds())
def test_a_registry_is_listed_in_full(cli: Any, kind: str) -> None:
    assert [row["name"] for row in cli("list", kind, "--json").json[kind]] == find_registry(kind).names()


def test_the_help_names_every_kind(cli: Any) -> None:
    words = cli("list", "--help").out
    assert [kind for kind in KINDS if kind not in words] == []


def test_methods_say_where_they_come_from_and_what_they_need(cli: Any) -> None:
    rows = {row["name"]: row for row in cli("list", "methods", "--json").json["methods"]}
    assert "2111.06377" in rows["mae"]["source"]
    assert "2208.12256" in rows["dmae"]["source"]
    assert "ViT-like teacher" in rows["dmae"]["needs"]
    assert "(needs a ViT-like backbone)" in cli("list", "methods").out


def test_backbones_are_timms_and_a_filter_is_a_shell_pattern(cli: Any) -> None:
    import timm

    rows = cli("list", "backbones", "--json").json["backbones"]
    assert {row["name"] for row in rows} >= set(timm.list_models())
    small = cli("list", "backbones", "--filter", "vit_tiny_patch16_???", "--json").json["backbones"]
    assert [row["name"] for row in small] == ["vit_tiny_patch16_224", "vit_tiny_patch16_384"]


def test_a_filter_that_nothing_fits_gives_an_empty_list(cli: Any) -> None:
    done = cli("list", "backbones", "--filter", "no-such-*", "--json")
    assert (done.code, done.json) == (0, {"backbones": []})


def test_recipes_are_listed_by_the_names_that_recipe_takes(cli: Any) -> None:
    assert {row["name"] for row in cli("list", "recipes", "--json").json["recipes"]} >= {"mae-small", "dmae-small"}


def test_listing_imports_none_of_it() -> None:
    code = (
        "import contextlib, io, sys\nfrom edgemim.cli import build_app\n"
        f"for kind in {KINDS}:\n"
        "    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as out:\n"
        "        build_app()(args=['list', kind])\n"
        "    assert out.getvalue(), kind\n"
        "print([n for n in ('torch', 'timm', 'datasets', 'onnx', 'openvino', 'nncf') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stderr, done.stdout.strip()) == ("", "[]")
