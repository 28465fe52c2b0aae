"""Plug-ins by file name: one file in a folder is one plug-in, listed without being imported.

A plug-in folder's `__init__.py` holds `METHODS = Registry("method", __name__)`; a plug-in file ends with
`METHODS.add("mae", MAE)`. File names use `_`, users write `-`; both find the same file. Listing reads the
module docstring with `ast`, so it never imports torch or a vendor package.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from edgemim.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from importlib.abc import Traversable


@dataclass(frozen=True, kw_only=True)
class Description:
    """What `edgemim list` shows of one plug-in, read from its module docstring.

    `sections` maps a lower-case heading (`source`, `needs`, `differs`) to its text on one line.
    """

    name: str
    summary: str
    sections: dict[str, str]


class Registry:
    """The plug-ins of one kind.

    Args:
        kind: Singular name for messages (`method`).
        package: Import name of the folder (`edgemim.methods`), which must not import its plug-ins.
        plural: Name of the list on the command line; `kind + "s"` by default.
        aliases: Further names, each for a plug-in; they are found, and not listed.
    """

    def __init__(
        self, kind: str, package: str, plural: str | None = None, *, aliases: Mapping[str, str] | None = None
    ) -> None:
        self.kind = kind
        self.package = package
        self.plural = plural or f"{kind}s"
        self.aliases = dict(aliases or {})
        self._added: dict[str, Any] = {}

    def _files(self) -> dict[str, Traversable]:
        # Resources and not paths: a board runs edgemim straight from its wheel, which is a zip.
        files = [f for f in resources.files(self.package).iterdir() if f.name.endswith(".py")]
        named = {f.name[: -len(".py")].replace("_", "-"): f for f in files if not f.name.startswith("_")}
        return dict(sorted(named.items()))

    def names(self) -> list[str]:
        """Names of all plug-ins, sorted, without importing one."""
        return list(self._files())

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def add(self, name: str, plugin: Any) -> None:
        """Register `plugin`; the last line of a plug-in's file, with the file's own name."""
        self._added[name] = plugin

    def find(self, name: str) -> str:
        """The name of a plug-in as it is listed, whatever its case and dashes; nothing is imported.

        Raises:
            ConfigError: There is no such plug-in.
        """
        wanted = name.strip().lower().replace("_", "-")
        wanted = self.aliases.get(wanted, wanted)
        files = self._files()
        if wanted not in files:
            raise ConfigError(f"unknown {self.kind} {name!r}{did_you_mean(wanted, files)}")
        return wanted

    def get(self, name: str) -> Any:
        """Import the plug-in's file and return what it registered.

        Raises:
            ConfigError: There is no such plug-in.
            MissingDependencyError: A package that the plug-in's `Needs:` names is not installed.
        """
        wanted = self.find(name)
        if wanted not in self._added:
            self._import(wanted, self._files()[wanted])
        return self._added[wanted]

    def _import(self, name: str, file: Traversable) -> None:
        try:
            importlib.import_module(f"{self.package}.{file.name[: -len('.py')]}")
        except ModuleNotFoundError as error:
            missing = (error.name or "").split(".")[0]
            if missing in ("", "edgemim"):
                raise
            needs = self.describe(name).sections.get("needs", "")
            extra = re.search(r"edgemim\[([\w,-]+)\]", needs)
            raise MissingDependencyError(
                f"{self.kind} {name!r}", missing, extra.group(1) if extra else "all"
            ) from error
        if name not in self._added:
            raise ValueError(f"{file} must end with a call of add({name!r}, ...)")

    def describe(self, name: str) -> Description:
        """Read the docstring of the plug-in's file; nothing is imported."""
        docstring = ast.get_docstring(ast.parse(self._files()[name].read_text(encoding="utf-8"))) or ""
        return Description(name=name, summary=_summary(docstring), sections=_sections(docstring))

    def describe_all(self) -> list[Description]:
        """One description per plug-in, sorted by name."""
        return [self.describe(name) for name in self.names()]


def did_you_mean(wrong: str, known: Any) -> str:
    """The end of a message about an unknown name: the nearest known one, or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(wrong, names, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]!r}?"
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    return f"; known: {shown}" if names else "; none is known here"


def _summary(docstring: str) -> str:
    return docstring.split("\n\n")[0].replace("\n", " ").strip().rstrip(".")


def _sections(docstring: str) -> dict[str, str]:
    """`Heading: text` up to the next blank line, for the headings that a plug-in may have."""
    sections = {}
    for paragraph in re.split(r"\n\s*\n", docstring):
        parts = re.split(r"^(Source|Command|Needs|Differs|Licence):", paragraph, flags=re.MULTILINE)
        for heading, text in zip(parts[1::2], parts[2::2], strict=True):
            sections[heading.lower()] = " ".join(text.split())
    return sections


_REGISTRIES = {
    "methods": ("edgemim.methods", "METHODS"),
    "maskings": ("edgemim.masking", "MASKINGS"),
    "losses": ("edgemim.losses", "LOSSES"),
    "layouts": ("edgemim.models.layouts", "LAYOUTS"),
    "sources": ("edgemim.data.sources", "SOURCES"),
    "ranges": ("edgemim.quantize.ranges", "RANGES"),
    "placements": ("edgemim.quantize.placement", "PLACEMENTS"),
    "quantizers": ("edgemim.quantize.quantizers", "QUANTIZERS"),
    "targets": ("edgemim.runtime.targets", "TARGETS"),
    "backends": ("edgemim.runtime.backends", "BACKENDS"),
}


def registry_kinds() -> list[str]:
    """Plural names of all kinds of plug-in."""
    return list(_REGISTRIES)


def find_registry(plural: str) -> Registry:
    """The registry of a kind, by its plural name.

    Raises:
        ConfigError: There is no such kind.
    """
    if plural not in _REGISTRIES:
        raise ConfigError(f"unknown kind {plural!r}{did_you_mean(plural, [*_REGISTRIES, 'backbones', 'recipes'])}")
    package, name = _REGISTRIES[plural]
    registry = getattr(importlib.import_module(package), name)
    assert isinstance(registry, Registry)
    return registry
