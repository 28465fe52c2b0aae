"""Wheels made anew from the packages that are installed here, so that a board needs none of them.

A board gets the foundation and the runtime of this edgemim, and the pure-Python packages that these import. The same
installed files give the same bytes on every machine: members in order, a fixed time, no compression. Python imports
straight from such a file through PYTHONPATH.

Source: "Binary distribution format", Python Packaging User Guide, for what a wheel holds; PEP 376 for RECORD.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata, resources
from typing import TYPE_CHECKING

from edgemim import __version__

if TYPE_CHECKING:
    from importlib.abc import Traversable

CARRIED = ("filelock", "platformdirs")
STANDINS = "edgemim_standins"
# The modules of `edgemim` itself that the runtime imports; of the other folders it takes the whole.
_FOUNDATION = ("__init__.py", "artifact.py", "config.py", "errors.py", "preprocess.py", "registry.py", "py.typed")
_EPOCH = (1980, 1, 1, 0, 0, 0)
_MODE = 0o100644 << 16
_WHEEL = "Wheel-Version: 1.0\nGenerator: edgemim\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A wheel in memory: its package, its file name, its bytes."""

    package: str
    name: str
    data: bytes


def build_wheels() -> list[Wheel]:
    """The wheel of edgemim, one per package of `CARRIED`, and the stand-ins for these."""
    edgemim = resources.files("edgemim")
    ours = {f"edgemim/{name}": edgemim.joinpath(name).read_bytes() for name in _FOUNDATION}
    ours |= dict(_members(resources.files("edgemim.runtime"), "edgemim/runtime"))
    carried = [
        _wheel(package, metadata.version(package), dict(_members(resources.files(package), package)))
        for package in CARRIED
    ]
    folder = resources.files("edgemim.remote.standins")
    standins = {f"{package}.py": folder.joinpath(f"{package}.py").read_bytes() for package in CARRIED}
    return [_wheel("edgemim", __version__, ours), *carried, _wheel(STANDINS, __version__, standins)]


def _members(folder: Traversable, path: str) -> Iterator[tuple[str, bytes]]:
    """Source files below `folder`, by their path in the wheel."""
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _members(entry, f"{path}/{entry.name}")
        elif entry.name.endswith(".py") or entry.name == "py.typed":
            yield f"{path}/{entry.name}", entry.read_bytes()


def _wheel(package: str, version: str, members: dict[str, bytes]) -> Wheel:
    folder = f"{package}-{version}.dist-info"
    held = {name: members[name] for name in sorted(members)}
    held[f"{folder}/METADATA"] = _metadata(package, version).encode()
    held[f"{folder}/WHEEL"] = _WHEEL.encode()
    record = [f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in held.items()]
    held[f"{folder}/RECORD"] = "".join([*record, f"{folder}/RECORD,,\n"]).encode()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, data in held.items():
            member = zipfile.ZipInfo(name, _EPOCH)
            member.external_attr, member.create_system = _MODE, 3
            archive.writestr(member, data)
    return Wheel(package=package, name=f"{package}-{version}-py3-none-any.whl", data=stream.getvalue())


def _metadata(package: str, version: str) -> str:
    """What the package says about itself; of an edgemim that runs from a folder, its name and version."""
    text = None
    with contextlib.suppress(metadata.PackageNotFoundError):
        installed = metadata.distribution(package)
        text = installed.read_text("METADATA") if installed.version == version else None
    return text or f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
