"""Registry: plug-ins found by file name, described without importing, imported when asked for."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgemim.errors import ConfigError, MissingDependencyError
from edgemim.registry import Registry, did_you_mean

NUMBER = itertools.count()
GOOD = '''"""Hide nothing at all.

Source: Nobody et al., "Nothing",
arXiv:0000.00000, section 3.

Needs: numpy; pip install 'edgemim[train]'
Differs: not at all.
"""
from {package} import PLUGINS

PLUGINS.add("{name}", "the plug-in {name}")
'''

MakeRegistry = Callable[..., Registry]


@pytest.fixture
def make_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeRegistry]:
    """Write a package of plug-ins (file stem -> source) and return its registry."""
    monkeypatch.syspath_prepend(tmp_path)
    packages = []

    def make(**files: str) -> Registry:
        package = f"plugins_of_a_test_{next(NUMBER)}"
        packages.append(package)
        folder = tmp_path / package
        folder.mkdir()
        head = f'from edgemim.registry import Registry\nPLUGINS = Registry("masking", "{package}")\n'
        (folder / "__init__.py").write_text(head)
        for stem, source in files.items():
            text = source.replace("{package}", package).replace("{name}", stem.replace("_", "-"))
            (folder / f"{stem}.py").write_text(text)
        registry = __import__(package).PLUGINS
        assert isinstance(registry, Registry)
        return registry

    yield make
    for name in [m for m in sys.modules if m.split(".")[0] in packages]:
        del sys.modules[name]


def test_names_are_file_names_with_dashes_and_without_private_files(make_registry: MakeRegistry) -> None:
    registry = make_registry(a1=GOOD, a_b=GOOD, zebra=GOOD, _base="x = 1")
    assert registry.names() == list(registry) == ["a-b", "a1", "zebra"]


def test_listing_and_describing_import_nothing(make_registry: MakeRegistry) -> None:
    registry = make_registry(broken='"""Cannot be imported."""\nraise RuntimeError("imported")\n')
    assert registry.names() == ["broken"]
    assert registry.describe_all()[0].summary == "Cannot be imported"


def test_a_description_holds_the_first_sentence_and_the_sections_on_one_line(
    make_registry: MakeRegistry,
) -> None:
    description = make_registry(nothing=GOOD).describe("nothing")
    assert description.summary == "Hide nothing at all"
    assert description.sections == {
        "source": 'Nobody et al., "Nothing", arXiv:0000.00000, section 3.',
        "needs": "numpy; pip install 'edgemim[train]'",
        "differs": "not at all.",
    }


def test_a_file_without_docstring_has_an_empty_description(make_registry: MakeRegistry) -> None:
    description = make_registry(bare="x = 1\n").describe("bare")
    assert (description.summary, description.sections) == ("", {})


@pytest.mark.parametrize("spelling", ["block-wise", "block_wise", " Block-Wise "])
def test_dashes_underscores_and_case_find_the_same_plugin(make_registry: MakeRegistry, spelling: str) -> None:
    assert make_registry(block_wise=GOOD).get(spelling) == "the plug-in block-wise"


def test_an_unknown_name_gives_the_nearest_one(make_registry: MakeRegistry) -> None:
    with pytest.raises(ConfigError, match=r"^unknown masking 'radnom'; did you mean 'random'\?$"):
        make_registry(random=GOOD, block=GOOD).get("radnom")


def test_an_unknown_name_near_to_nothing_gives_all_names(make_registry: MakeRegistry) -> None:
    with pytest.raises(ConfigError, match=r"^unknown masking 'qqqqq'; known: block, random$"):
        make_registry(random=GOOD, block=GOOD).get("qqqqq")


def test_a_path_is_not_a_name(make_registry: MakeRegistry) -> None:
    with pytest.raises(ConfigError, match="unknown masking"):
        make_registry(random=GOOD).get("../random")


def test_a_missing_package_names_the_extra_of_the_needs_section(make_registry: MakeRegistry) -> None:
    source = '"""X.\n\nNeeds: vendor; pip install \'edgemim[rtx]\'\n"""\nimport no_such_vendor.part\n'
    with pytest.raises(MissingDependencyError) as caught:
        make_registry(fast=source).get("fast")
    assert str(caught.value) == (
        "masking 'fast' needs the package 'no_such_vendor', which is not installed; run: pip install 'edgemim[rtx]'"
    )


def test_a_missing_package_without_needs_section_names_the_extra_all(make_registry: MakeRegistry) -> None:
    with pytest.raises(MissingDependencyError, match=r"edgemim\[all\]"):
        make_registry(fast="import no_such_vendor\n").get("fast")


def test_a_missing_module_of_edgemim_is_a_bug_and_not_a_missing_package(make_registry: MakeRegistry) -> None:
    with pytest.raises(ModuleNotFoundError) as caught:
        make_registry(wrong="import edgemim.no_such_module\n").get("wrong")
    assert not isinstance(caught.value, MissingDependencyError)


def test_a_file_that_registers_another_name_is_a_bug(make_registry: MakeRegistry) -> None:
    source = 'from {package} import PLUGINS\nPLUGINS.add("other", 1)\n'
    with pytest.raises(ValueError, match=r"must end with a call of add\('mine', \.\.\.\)"):
        make_registry(mine=source).get("mine")


def test_the_plural_may_be_irregular() -> None:
    assert Registry("method", "edgemim.methods").plural == "methods"
    assert Registry("masking", "edgemim.masking", "masking strategies").plural == "masking strategies"


def test_did_you_mean_shows_at_most_twenty_names() -> None:
    many = [f"{i:03}" for i in range(30)]
    assert did_you_mean("zzz", many).endswith("018, 019, ...")
    assert did_you_mean("zzz", []) == "; none is known here"


def test_an_alias_is_found_and_not_listed(make_registry: MakeRegistry) -> None:
    registry = make_registry(long_name=GOOD)
    registry.aliases["short"] = "long-name"
    assert registry.names() == ["long-name"]
    assert registry.get("Short") == registry.get("long-name")
    assert registry.find("short") == "long-name"
