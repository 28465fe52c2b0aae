"""What stands between this machine and a good measurement, each with its cure; read, never changed.

Packages are looked up in their metadata: nothing heavy is imported,
and a broken torch cannot break the doctor.
"""

from __future__ import annotations

import re
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from edgemim.runtime.backends import BACKENDS
from edgemim.runtime.device import Device, describe_device

OLDEST_PYTHON = (3, 10)
_LEAST_MEMORY_MIB = 1024.0
# JetPack and the TensorRT it ships, by L4T release; the first prefix that fits.
_JETPACKS = (
    ("39.", "7.2", "10.16"),
    ("38.", "7.0 or 7.1", "10.13"),
    ("36.4.", "6.1 or 6.2", "10.3"),
    ("36.5.", "6.2", "10.3"),
    ("36.", "6.0", "8.6"),
    ("35.1.", "5.0", "8.4"),
    ("35.", "5.1", "8.5"),
)
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?([^;]*);?(.*)")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing the doctor looked at.

    Attributes:
        what: What was found, in one line.
        why: Why it matters.
        cure: What to do about it; None if there is nothing to do.
        level: "ok", "warn" or "error".
    """

    what: str
    why: str
    cure: str | None
    level: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return asdict(self)


def diagnose(device: Device | None = None) -> list[Finding]:
    """Look at this machine; the order is that of the questions a user would ask."""
    device = device or describe_device()
    return [
        _python(sys.version_info[:2]),
        *_packages(),
        *_backends(),
        _instructions(device),
        _governor(device),
        _memory(device),
        *_jetson(device),
    ]


def _ok(what: str, why: str) -> Finding:
    return Finding(what=what, why=why, cure=None, level="ok")


def _warn(what: str, why: str, cure: str | None) -> Finding:
    return Finding(what=what, why=why, cure=cure, level="warn")


def _error(what: str, why: str, cure: str) -> Finding:
    return Finding(what=what, why=why, cure=cure, level="error")


def _python(version: tuple[int, ...]) -> Finding:
    shown, oldest = (".".join(map(str, v)) for v in (version, OLDEST_PYTHON))
    why = f"edgemim needs Python {oldest} or newer"
    if version < OLDEST_PYTHON:
        return _error(f"Python {shown}", why, f"install Python {oldest} or newer")
    return _ok(f"Python {shown}", why)


def _packages() -> list[Finding]:
    """One finding for the base install and one per extra, from edgemim's own metadata."""
    try:
        requirements = metadata.requires("edgemim") or []
    except metadata.PackageNotFoundError:
        what, why = "edgemim runs from a folder and is not installed", "its extras cannot be looked up"
        return [_warn(what, why, "run: pip install edgemim")]
    groups: dict[str, list[tuple[str, str]]] = {"": []}
    for requirement in requirements:
        match = _REQUIREMENT.fullmatch(requirement.strip())
        assert match is not None, requirement
        name, wanted, marker = (part.strip() for part in match.groups())
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", marker)
        conditional = re.search(r"python_version|platform|sys_platform", marker)
        if name != "edgemim" and (extra or not conditional):
            groups.setdefault(extra[1] if extra else "", []).append((name, wanted))
    return [_group(extra, wanted) for extra, wanted in groups.items() if extra != "dev"]


def _group(extra: str, requirements: list[tuple[str, str]]) -> Finding:
    title = f"extra {extra!r}" if extra else "base install"
    command = f"pip install -U 'edgemim[{extra}]'" if extra else "pip install -U edgemim"
    found = {name: _version(name) for name, _ in requirements}
    missing = [name for name, version in found.items() if version is None]
    old = [f"{n} {found[n]} (needs {wanted})" for n, wanted in requirements if _older(found[n], wanted)]
    shown = ", ".join(f"{name} {version}" for name, version in found.items() if version is not None)
    why = f"what `edgemim[{extra}]` installs" if extra else "what every command needs"
    if old:
        return _error(f"{title}: too old: {', '.join(old)}", why, f"run: {command}")
    if missing and not extra:
        return _error(f"{title}: missing {', '.join(missing)}", why, f"run: {command}")
    if missing:
        absent = f"{title}: not installed" if not shown else f"{title}: missing {', '.join(missing)}"
        return Finding(what=absent, why=why, cure=f"if you need it, run: {command}", level="ok")
    return _ok(f"{title}: {shown}", why)


def _older(version: str | None, wanted: str) -> bool:
    """Whether a version is below the `>=` of a requirement; numbers only, the rest is pip's business."""
    least = re.search(r">=\s*([\d.]+)", wanted)
    return version is not None and least is not None and _numbers(version) < _numbers(least[1])


def _numbers(version: str) -> list[int]:
    match = re.match(r"\d+(\.\d+)*", version)
    return [int(part) for part in match[0].split(".")] if match else []


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _backends() -> list[Finding]:
    found, usable = [], False
    why = "`edgemim check` runs a bundle through it"
    for name in BACKENDS.names():
        backend = BACKENDS.get(name)()
        reason = backend.available()
        usable = usable or reason is None
        if reason is None:
            found.append(_ok(f"backend {name}: {backend.version()}", why))
        else:
            cure = f"if you need it, run: pip install 'edgemim[{backend.extra}]'"
            found.append(Finding(what=f"backend {name}: not installed", why=why, cure=cure, level="ok"))
    if not usable:
        cure = "run: pip install 'edgemim[onnxruntime]'"
        found.append(_error("no backend is installed", "`edgemim check` cannot run any bundle here", cure))
    return found


def _instructions(device: Device) -> Finding:
    name = device.cpu or device.machine
    if device.int8_is_fast is None:
        what = f"CPU {name}: its instruction sets could not be read"
        return _warn(what, "whether INT8 pays cannot be foreseen", "compare fp32 and INT8 with `edgemim check`")
    shown = ", ".join(device.isa or ()) or "none of those that matter"
    level = "" if device.isa_level is None else f", level {device.isa_level}"
    cap = "" if device.isa_cap is None else f" under ONEDNN_MAX_CPU_ISA={device.isa_cap}"
    what = f"CPU {name}{level}{cap}, {device.default_threads} threads per inference: {shown}"
    if not device.int8_is_fast:
        why = "without VNNI, AMX or Arm's dot product INT8 is slower than fp32 in OpenVINO, and gains little elsewhere"
        return _warn(what, why, "ship fp32 here unless `edgemim check` says otherwise")
    if device.machine == "aarch64":
        why = "INT8 pays in onnxruntime; OpenVINO on Arm computes INT8 models in floating point"
        return _ok(what, why)
    return _ok(what, "this CPU multiplies INT8 in one instruction, so INT8 can pay")


def _governor(device: Device) -> Finding:
    why = "a clock that floats makes two measurements differ"
    if device.governor is None:
        where = "in this virtual machine" if device.virtual else "here"
        return _ok(f"CPU governor: not readable {where}", why)
    if device.governor == "performance":
        return _ok("CPU governor: performance", why)
    cure = "run: sudo cpupower frequency-set -g performance"
    return _warn(f"CPU governor: {device.governor}", why, cure)


def _memory(device: Device) -> Finding:
    free, why = device.memory_available_mib, "every candidate of a bundle is loaded at the same time"
    if free is None:
        return _ok("memory: not readable", why)
    what = f"memory: {free:,.0f} of {device.memory_mib or 0:,.0f} MiB available"
    if free < _LEAST_MEMORY_MIB:
        return _warn(what, why, "end other programs, or check one candidate at a time")
    return _ok(what, why)


def _jetson(device: Device) -> list[Finding]:
    if device.l4t is None:
        return []
    fits = next((row for row in _JETPACKS if device.l4t.startswith(row[0])), None)
    if fits is None:
        what = f"Jetson with L4T {device.l4t}"
        return [_warn(what, "edgemim does not know its JetPack", "report it, with this line")]
    _, jetpack, shipped = fits
    what = f"Jetson with L4T {device.l4t}: JetPack {jetpack}, which ships TensorRT {shipped}"
    found = device.packages.get("tensorrt")
    why = "engines for the GPU are built on the board by its own TensorRT"
    if found is None:
        cure = "run: sudo apt install python3-libnvinfer, and make the venv with --system-site-packages"
        return [_warn(f"{what}; Python does not see it", why, cure)]
    return [_ok(f"{what}; installed: {found}", why)]
