"""The backends, and the ONNX Runtime behind one of them, of which there are builds that promise more than they do."""

from __future__ import annotations

import importlib.util
import mmap
import re
from pathlib import Path

from edgemim.runtime.backends import BACKENDS
from edgemim.runtime.device import Device
from edgemim.runtime.doctor._finding import Finding, error, ok, warn
from edgemim.runtime.doctor.packages import installed_version
from edgemim.runtime.jetpack import find_jetpack

# They all install the one package `onnxruntime`.
_DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino")
_CPU_ONLY = "run: pip uninstall -y {}; then: pip install 'edgemim[onnxruntime]', all that edgemim needs"
_SILENT = "such a build lists CUDA among its providers, and its sessions run on the CPU without a word"


def about_backends() -> list[Finding]:
    """One finding per backend, and an error if none can be used."""
    found, usable = [], False
    why = "`edgemim check` runs a bundle through it"
    for name in BACKENDS.names():
        backend = BACKENDS.get(name)()
        reason = backend.available()
        usable = usable or reason is None
        if reason is None:
            found.append(ok(f"backend {name}: {backend.version()}", why))
        else:
            cure = f"if you need it, run: pip install 'edgemim[{backend.extra}]'"
            found.append(ok(f"backend {name}: not installed", why, cure))
    if not usable:
        cure = "run: pip install 'edgemim[onnxruntime]'"
        found.append(error("no backend is installed", "`edgemim check` cannot run any bundle here", cure))
    return found


def about_onnxruntime(device: Device) -> list[Finding]:
    """Its providers, told by its files; nothing if it is not installed."""
    versions = {name: installed_version(name) for name in _DISTRIBUTIONS}
    there = {name: version for name, version in versions.items() if version is not None}
    folder = _folder()
    if not there or folder is None:
        return []
    shown = " and ".join(f"{name} {version}" for name, version in there.items())
    cure = _CPU_ONLY.format(" ".join(there))
    if len(there) > 1:
        why = "they install into one folder, and the one that came last runs, or a mixture"
        return [warn(f"{shown} are both installed", why, cure)]
    providers = sorted(_provider(file) for file in folder.glob("capi/libonnxruntime_providers_*.so"))
    names = ["cpu", *(name for name in providers if name != "shared")]
    why = "edgemim compares every engine with its cpu provider"
    if "onnxruntime-gpu" in there:
        trouble = _gpu_trouble(folder, names, device)
        if trouble is not None:
            return [warn(f"{shown} {trouble}", _SILENT, cure)]
    return [ok(f"{shown}: providers {', '.join(names)}", why)]


def _gpu_trouble(folder: Path, providers: list[str], device: Device) -> str | None:
    """Why a build for GPUs computes on the CPU here, or None."""
    if "cuda" not in providers:
        return "has no CUDA library: it is a build for the CPU"
    jetpack = None if device.l4t is None else find_jetpack(device.l4t)
    needed = _needed_cuda(folder / "capi/libonnxruntime_providers_cuda.so")
    if jetpack is not None and needed is not None and needed != jetpack.cuda:
        return f"was built for CUDA {needed}, and JetPack {jetpack.name} has CUDA {jetpack.cuda}"
    return None


def _needed_cuda(library: Path) -> int | None:
    """Major version of the CUDA that a library was linked with, from the names of the libraries that it asks for."""
    if not library.stat().st_size:
        return None
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        match = re.search(rb"libcublasLt\.so\.(\d+)", content)
        return int(match[1]) if match else None


def _provider(file: Path) -> str:
    return file.stem.removeprefix("libonnxruntime_providers_")


def _folder() -> Path | None:
    spec = importlib.util.find_spec("onnxruntime")
    places = None if spec is None else spec.submodule_search_locations
    return Path(places[0]) if places else None
