"""Processor, clock, memory and power sensors."""

from __future__ import annotations

from pathlib import Path

from edgemim.runtime.device import Device
from edgemim.runtime.doctor._finding import Finding, ok, warn
from edgemim.runtime.power._base import UnreadableError
from edgemim.runtime.power.meter import find_source

_LEAST_MEMORY_MIB = 1024.0
# On a Jetson the builder, the engine, the desktop and the page cache share one memory.
_LEAST_JETSON_MIB = 3072.0


def about_instructions(device: Device) -> Finding:
    """Whether INT8 can pay on this CPU."""
    name = device.cpu or device.machine
    if device.emulated:
        what = f"CPU {device.machine}, emulated on another kind of processor"
        return warn(what, "what runs is right, what is timed means nothing", "measure on the board itself")
    if device.int8_is_fast is None:
        what = f"CPU {name}: its instruction sets could not be read"
        return warn(what, "whether INT8 pays cannot be foreseen", "compare fp32 and INT8 with `edgemim check`")
    shown = ", ".join(device.isa or ()) or "none of those that matter"
    level = "" if device.isa_level is None else f", level {device.isa_level}"
    cap = "" if device.isa_cap is None else f" under ONEDNN_MAX_CPU_ISA={device.isa_cap}"
    what = f"CPU {name}{level}{cap}, {device.default_threads} threads per inference: {shown}"
    if not device.int8_is_fast:
        why = "without VNNI, AMX or Arm's dot product INT8 is slower than fp32 in OpenVINO, and gains little elsewhere"
        return warn(what, why, "ship fp32 here unless `edgemim check` says otherwise")
    if device.machine == "aarch64":
        why = "INT8 pays in onnxruntime; OpenVINO on Arm computes INT8 models in floating point"
        return ok(what, why)
    return ok(what, "this CPU multiplies INT8 in one instruction, so INT8 can pay")


def about_clock(device: Device) -> list[Finding]:
    """Whether the CPU's clock floats; on a Jetson `about_jetson` says so for CPU and GPU together."""
    why = "a clock that floats makes two measurements differ"
    if device.l4t is not None:
        return []
    if device.governor is None:
        where = "in this virtual machine" if device.virtual else "here"
        return [ok(f"CPU governor: not readable {where}", why)]
    if device.governor == "performance":
        return [ok("CPU governor: performance", why)]
    if device.clocks_locked:
        return [ok(f"CPU governor: {device.governor}, with a single clock to choose from", why)]
    cure = "run: sudo cpupower frequency-set -g performance"
    return [warn(f"CPU governor: {device.governor}", why, cure)]


def about_memory(device: Device) -> Finding:
    """Whether a check fits."""
    free = device.memory_available_mib
    on_jetson = device.l4t is not None
    why = (
        "building an engine takes a few GiB of the memory that CPU and GPU share"
        if on_jetson
        else "every candidate of a bundle is loaded at the same time"
    )
    if free is None:
        return ok("memory: not readable", why)
    what = f"memory: {free:,.0f} of {device.memory_mib or 0:,.0f} MiB available"
    if on_jetson and free < _LEAST_JETSON_MIB:
        return warn(
            what, why, "run: sudo systemctl isolate multi-user.target, which ends the desktop until the next boot"
        )
    if free < _LEAST_MEMORY_MIB:
        return warn(what, why, "end other programs, or check one candidate at a time")
    return ok(what, why)


def about_power(root: Path) -> Finding:
    """Whether a check can tell the energy of an inference."""
    why = "`edgemim check` reports the energy of an inference"
    try:
        source = find_source(root)
    except UnreadableError as unreadable:
        what = f"power: {unreadable.reason}"
        return ok(what, why) if unreadable.cure is None else warn(what, why, unreadable.cure)
    if not source.parts:
        return warn(f"power: {source.name} reads {', '.join(source.rails)}", f"{why}, from rails that add up", None)
    return ok(f"power: {source.name} reads {' + '.join(source.parts)}", why)
