"""Python, edgemim's own requirements, and its extras."""

from __future__ import annotations

import re
from importlib import metadata

from edgemim.runtime.doctor._finding import Finding, error, ok, warn

OLDEST_PYTHON = (3, 10)
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?([^;]*);?(.*)")


def about_python(version: tuple[int, ...]) -> Finding:
    """Whether edgemim runs on this Python."""
    shown, oldest = (".".join(map(str, v)) for v in (version, OLDEST_PYTHON))
    why = f"edgemim needs Python {oldest} or newer"
    if version < OLDEST_PYTHON:
        return error(f"Python {shown}", why, f"install Python {oldest} or newer")
    return ok(f"Python {shown}", why)


def about_packages(pin: str = "") -> list[Finding]:
    """One finding for the base install and one per extra, from edgemim's own metadata.

    Args:
        pin: A further requirement that every cure must keep, as pip takes it.
    """
    try:
        requirements = metadata.requires("edgemim") or []
    except metadata.PackageNotFoundError:
        what, why = "edgemim runs from a folder and is not installed", "its extras cannot be looked up"
        return [warn(what, why, "run in its folder: pip install .")]
    groups: dict[str, list[tuple[str, str]]] = {"": []}
    for requirement in requirements:
        match = _REQUIREMENT.fullmatch(requirement.strip())
        assert match is not None, requirement
        name, wanted, marker = (part.strip() for part in match.groups())
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", marker)
        conditional = re.search(r"python_version|platform|sys_platform", marker)
        if name != "edgemim" and (extra or not conditional):
            groups.setdefault(extra[1] if extra else "", []).append((name, wanted))
    return [_group(extra, wanted, pin) for extra, wanted in groups.items() if extra != "dev"]


def installed_version(name: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def numbers(version: str) -> list[int]:
    """`10.3.0.26` as numbers; what follows them, such as `rc1`, is left out."""
    match = re.match(r"\d+(\.\d+)*", version)
    return [int(part) for part in match[0].split(".")] if match else []


def _group(extra: str, requirements: list[tuple[str, str]], pin: str) -> Finding:
    title = f"extra {extra!r}" if extra else "base install"
    command = " ".join(filter(None, ("pip install -U", f"'edgemim[{extra}]'" if extra else "edgemim", pin)))
    found = {name: installed_version(name) for name, _ in requirements}
    missing = [name for name, version in found.items() if version is None]
    old = [f"{n} {found[n]} (needs {wanted})" for n, wanted in requirements if _older(found[n], wanted)]
    shown = ", ".join(f"{name} {version}" for name, version in found.items() if version is not None)
    why = f"what `edgemim[{extra}]` installs" if extra else "what every command needs"
    if old:
        return error(f"{title}: too old: {', '.join(old)}", why, f"run: {command}")
    if missing and not extra:
        return error(f"{title}: missing {', '.join(missing)}", why, f"run: {command}")
    if missing:
        absent = f"{title}: not installed" if not shown else f"{title}: missing {', '.join(missing)}"
        return ok(absent, why, f"if you need it, run: {command}")
    return ok(f"{title}: {shown}", why)


def _older(version: str | None, wanted: str) -> bool:
    """Whether a version is below the `>=` of a requirement; numbers only, the rest is pip's business."""
    least = re.search(r">=\s*([\d.]+)", wanted)
    return version is not None and least is not None and numbers(version) < numbers(least[1])
