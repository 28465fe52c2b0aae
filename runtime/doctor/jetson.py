"""A Jetson: what its JetPack brings, whether this Python sees it, and in which mode the board runs."""

from __future__ import annotations

from edgemim.runtime.device import Device
from edgemim.runtime.doctor._finding import Finding, error, ok, warn
from edgemim.runtime.doctor.packages import numbers
from edgemim.runtime.doctor.place import Place
from edgemim.runtime.jetpack import JetPack, find_jetpack
from edgemim.runtime.tegra import read_power_modes

# What edgemim and bindings that were built before numpy 2 both take.
_NUMPY_1 = "'numpy>=1.24,<2'"
_BUILT_HERE = "engines for the GPU are built on the board by its own TensorRT"


def about_jetson(device: Device, place: Place) -> list[Finding]:
    """Findings of a Jetson; none on another machine."""
    if device.l4t is None:
        return [] if device.chip is None else [_hidden_release(device.chip)]
    jetpack = find_jetpack(device.l4t)
    if jetpack is None:
        what = f"Jetson with L4T {device.l4t}"
        return [warn(what, "edgemim does not know its JetPack", "report it, with this line"), *_speed(device, place)]
    if jetpack.unsupported is not None and jetpack.cure is not None:
        what = f"Jetson with L4T {device.l4t}: JetPack {jetpack.name}, which edgemim does not support"
        return [error(what, jetpack.unsupported, jetpack.cure)]
    return [
        _release(device.l4t, jetpack),
        *_bindings(device, jetpack, place),
        *_numpy(device, jetpack),
        *_speed(device, place),
    ]


def required_numpy(device: Device) -> str:
    """The numpy that this board's TensorRT takes, as pip takes it; empty if any will do."""
    jetpack = None if device.l4t is None else find_jetpack(device.l4t)
    return _NUMPY_1 if jetpack is not None and jetpack.needs_numpy_1 else ""


def _hidden_release(chip: str) -> Finding:
    return warn(
        f"Jetson ({chip}) whose L4T release cannot be read, as in a container",
        "engines are kept by release, and an engine of another one does not load",
        "run the container with: -v /etc/nv_tegra_release:/etc/nv_tegra_release:ro",
    )


def _release(l4t: str, jetpack: JetPack) -> Finding:
    flavour = "fp16" if jetpack.opset >= 20 else "fp32"
    return ok(
        f"Jetson with L4T {l4t}: JetPack {jetpack.name}, TensorRT {jetpack.tensorrt}, CUDA {jetpack.cuda}, "
        f"Python {jetpack.python}",
        f"its TensorRT reads ONNX up to opset {jetpack.opset} at least, so a bundle's {flavour} flavour fits",
    )


def _bindings(device: Device, jetpack: JetPack, place: Place) -> list[Finding]:
    """Whether this Python sees a TensorRT, and the right one."""
    if not place.sees("tensorrt"):
        return [_unseen(jetpack, place)]
    found = device.packages.get("tensorrt")
    if found is None:
        return [ok("TensorRT for Python: installed", _BUILT_HERE)]
    if numbers(found)[:2] != numbers(jetpack.tensorrt):
        what = f"TensorRT for Python is {found}, JetPack {jetpack.name} brings {jetpack.tensorrt}"
        why = "a wheel from PyPI is built for servers and may not know this GPU or its driver"
        return [warn(what, why, "run: pip uninstall tensorrt; then: sudo apt install python3-libnvinfer")]
    return [ok(f"TensorRT for Python: {found}", _BUILT_HERE)]


def _unseen(jetpack: JetPack, place: Place) -> Finding:
    what = "TensorRT for Python is"
    if not place.bindings:
        return error(f"{what} not installed", _BUILT_HERE, "run: sudo apt install python3-libnvinfer")
    wanted = place.bindings_python or jetpack.python
    if place.python != wanted:
        cure = f"run edgemim with /usr/bin/python{wanted}, or a virtual environment made by it"
        return error(f"{what} for Python {wanted}, this is {place.python}", _BUILT_HERE, cure)
    if place.environment is not None:
        settings = place.environment / "pyvenv.cfg"
        cure = f"run: sed -i 's/^include-system-site-packages = .*/include-system-site-packages = true/' {settings}"
        return error(f"{what} hidden by the virtual environment {place.environment}", _BUILT_HERE, cure)
    folder = place.bindings[0].parent
    return error(
        f"{what} in {folder}, where this Python does not look", _BUILT_HERE, f"run: export PYTHONPATH={folder}"
    )


def _numpy(device: Device, jetpack: JetPack) -> list[Finding]:
    version = device.packages.get("numpy")
    if version is None or not jetpack.needs_numpy_1:
        return []
    why = f"the bindings of TensorRT {jetpack.tensorrt} were built before numpy 2 and fail with it"
    if numbers(version)[:1] >= [2]:
        return [error(f"numpy {version} on JetPack {jetpack.name}", why, f"run: pip install {_NUMPY_1}")]
    return [ok(f"numpy {version}", why)]


def _speed(device: Device, place: Place) -> list[Finding]:
    """Power mode and clocks: what a latency of this board belongs to."""
    return [_mode(device, place), _clocks(device)]


def _mode(device: Device, place: Place) -> Finding:
    why = "it caps the clocks and cores: a latency is of one power mode"
    modes = read_power_modes(place.root)
    if modes is None or device.power_mode is None:
        return ok("power mode: not readable", why, "to see it, run: sudo nvpmodel -q")
    what = f"power mode: {device.power_mode}"
    if modes.largest is None or modes.now == modes.largest:
        return ok(what, why)
    cure = f"unless the product runs in it, run: sudo nvpmodel -m {modes.largest}"
    return warn(f"{what}, below {modes.names[modes.largest]}", why, cure)


def _clocks(device: Device) -> Finding:
    why = "clocks that float make two measurements differ"
    if device.clocks_locked is None:
        return ok("clocks: not readable", why, "to see them, run: sudo jetson_clocks --show")
    if device.clocks_locked:
        return ok("clocks: locked", why)
    return warn("clocks: floating", why, "run: sudo jetson_clocks (until the next boot)")
