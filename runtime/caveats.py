"""What a reader of the report must know before trusting its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgemim.runtime.bundle import Bundle
from edgemim.runtime.device import Device
from edgemim.runtime.environment.summary import Environment
from edgemim.runtime.latency.summary import STABLE_DEVICE_CV, STABLE_SPREAD, Latency
from edgemim.runtime.latency.warmup import AGREEMENT
from edgemim.runtime.plan import Plan
from edgemim.runtime.trial import Trial


def caveats(
    bundle: Bundle,
    device: Device,
    plan: Plan,
    trials: Sequence[Trial],
    reference: Trial | None,
    preprocessing: Mapping[str, Any],
    environment: Environment | None = None,
) -> list[str]:
    """Sentences, the weightiest first; none if everything is as it should be.

    Args:
        environment: What the machine did while it was measured, where that was watched.
    """
    found = []
    levels, normalised = preprocessing["max_levels"], preprocessing["max_abs"]
    if levels is None:
        found.append("the bundle carries no golden images: how this device decodes and resizes was not compared")
    elif levels:
        found.append(f"this device decodes or resizes the golden images differently, by up to {levels} of 255 levels")
    if normalised:
        found.append(f"this device normalises the golden pixels differently, by up to {normalised:.3g}")
    calibration = bundle.artifact.content.get("calibration")
    if calibration is not None and calibration.get("synthetic"):
        found.append("INT8 was calibrated on noise, for a trial of speed: the accuracy of INT8 means nothing")
    if bundle.batch > 1:
        found.append(f"every latency, in gates too, is of a run of {bundle.batch} images")
    found += _about_target(bundle, device, trials)
    found += [f"{name} was left out: {reason}" for name, reason in plan.skipped.items()]
    found += [
        f"the reference {trial.label} could not be used: {trial.disqualified}"
        for trial in trials
        if not trial.pair.timed and trial.disqualified is not None
    ]
    if reference is None:
        found.append("no fp32 candidate could serve as the reference: nothing is compared with fp32")
    found += _about_sessions(bundle, trials)
    found += [] if environment is None else environment.marks
    found += _about_device(device, trials)
    return found


def _about_target(bundle: Bundle, device: Device, trials: Sequence[Trial]) -> list[str]:
    target, found = bundle.target, []
    if device.machine not in target.machines:
        found.append(f"the bundle is for target {target.name!r}, this machine is {device.machine}")
    used = {trial.pair.backend.name for trial in trials if trial.pair.timed}
    foreign = sorted(used - set(target.backends))
    if foreign:
        names = " and ".join(foreign)
        found.append(f"{names} is no backend of target {target.name!r}: its numbers do not speak for that")
    return found


def _about_sessions(bundle: Bundle, trials: Sequence[Trial]) -> list[str]:
    found = []
    for trial in trials:
        if not trial.pair.timed:
            continue
        if trial.facts.get("no_cuda_graph") is not None:
            found.append(f"{trial.label} runs without a CUDA graph, kernel by kernel: {trial.facts['no_cuda_graph']}")
        expected = trial.pair.backend.compares_with_reference and trial.disqualified is None
        if expected and trial.same_file is None:
            found.append(
                f"{trial.label} was compared with the golden outputs alone: no ONNX Runtime here can run its file"
            )
    built_for = set(bundle.target.compute_capabilities)
    here = {str(t.facts["compute_capability"]) for t in trials if "compute_capability" in t.facts}
    if built_for and here - built_for:
        found.append(
            f"the bundle is for target {bundle.target.name!r}, GPUs of compute capability "
            f"{' or '.join(sorted(built_for))}; this one is {', '.join(sorted(here))}"
        )
    return found


def about_latency(measured: Sequence[tuple[str, Latency]]) -> list[str]:
    """One sentence for everything that did not warm up, one for everything that was not stable.

    Args:
        measured: Names and latencies.
    """
    cold = [f"{label} ({found.warmup_s:.1f} s)" for label, found in measured if found.settled is False]
    shaky = [(label, found) for label, found in measured if found.stable is False]
    computed = [f"{label} ({found.device_cv:.1%})" for label, found in shaky if found.device_cv is not None]
    waited = [f"{label} ({found.spread:.1%})" for label, found in shaky if found.device_cv is None]
    remarks = []
    if cold:
        remarks.append(
            f"warming up did not settle within its time: medians of the last runs still differed by more than "
            f"{AGREEMENT:.0%}, or the board still got warmer, of {_all(cold)}"
        )
    if waited:
        told = f"the quartiles of the rounds' medians lie more than {STABLE_SPREAD:.1%} apart"
        remarks.append(f"the latency is not stable, {told}: {_all(waited)}")
    if computed:
        told = f"its time on the device has a coefficient of variation above {STABLE_DEVICE_CV:.0%}"
        remarks.append(f"the latency is not stable, {told}: {_all(computed)}")
    return remarks


def _all(names: Sequence[str]) -> str:
    return " and ".join([*filter(None, [", ".join(names[:-1])]), names[-1]])


def _about_device(device: Device, trials: Sequence[Trial]) -> list[str]:
    found = []
    if device.emulated:
        found.append(
            f"the {device.machine} processor is emulated by another kind of processor (qemu-user): outputs count, "
            "latencies and energies mean nothing"
        )
    found += about_latency([(t.label, t.latency) for t in trials if t.latency is not None])
    if device.virtual:
        found.append("this is a virtual machine: its neighbours take part in the tail of the latency")
    if device.load is not None and device.load > device.threads / 2:
        found.append(f"the machine was busy before the check: load {device.load:g} on {device.threads} CPUs")
    if device.l4t is not None and device.clocks_locked is False:
        found.append("the clocks of CPU and GPU float; `sudo jetson_clocks` would fix them")
    elif device.governor not in (None, "performance") and not device.clocks_locked:
        found.append(f"the CPU governor is {device.governor}, so the clock floats; performance would fix it")
    if device.isa_cap is not None:
        found.append(
            f"ONEDNN_MAX_CPU_ISA={device.isa_cap} is set: OpenVINO runs as on a CPU of that level "
            f"({device.isa_level or 'below AVX2'}), ONNX Runtime as on this one"
        )
    on_cpu = [trial for trial in trials if trial.pair.backend.processor == "CPU"]
    int8 = any(trial.pair.candidate.precision == "int8" for trial in on_cpu)
    if int8 and device.int8_is_fast is False:
        found.append(
            "there is no INT8 dot product here (VNNI, AMX or Arm's): INT8 can be slower than fp32, and on x86 the "
            "sums of OpenVINO's INT8 products saturate, which costs accuracy that other CPUs keep"
        )
    return found
