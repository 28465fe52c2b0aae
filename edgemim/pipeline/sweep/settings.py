"""What a sweep is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from edgemim.errors import ConfigError
from edgemim.quantize.placement import PLACEMENTS
from edgemim.quantize.random_images import PREFIX as NOISE
from edgemim.registry import did_you_mean
from edgemim.runtime.device import Device
from edgemim.runtime.latency.protocol import LatencyProtocol, protocol_for
from edgemim.runtime.settings import CheckSettings
from edgemim.runtime.targets import TARGETS
from edgemim.runtime.targets._base import PRECISIONS, Target, Variant


@dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """What to try, and what to hold it to.

    Attributes:
        target: Name of the target.
        checkpoints: Checkpoint folders.
        backbones: timm names; they get random weights, so that nothing but their speed and size is known.
        precisions: A precision (`fp32`, `bf16`, `int8`), or one INT8 candidate (`int8-linear`); empty: all that the
            target has.
        sizes: Sides of square inputs in pixels; empty: each model's own size.
        data: Images to calibrate on and, with a checkpoint, to evaluate on; empty: those that a checkpoint was trained
            on, and noise for random weights. `random:N` is noise for all, and then nothing has an accuracy.
        max_ms: Largest median latency that fits, in milliseconds; None: no limit is asked about.
        minutes: No combination is begun that would end after so many; None: no limit.
        mode: How long to measure, one of `edgemim.runtime.latency.protocol.MODES`.
        seconds, runs: Least time and number of timed runs of each candidate, in place of the mode's.
        threads: Of one inference; None: the physical cores that this process may use.
    """

    target: str
    checkpoints: tuple[Path, ...] = ()
    backbones: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    data: str = ""
    max_ms: float | None = None
    minutes: float | None = None
    mode: str = "quick"
    seconds: float | None = None
    runs: int | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        if not self.checkpoints and not self.backbones:
            raise ConfigError("there is nothing to sweep; give checkpoint folders, or timm names with --backbone NAME")
        known = precision_names(TARGETS.get(self.target))
        for name in self.precisions:
            if name not in known:
                raise ConfigError(f"target {self.target!r} has no precision {name!r}{did_you_mean(name, known)}")
        if any(size < 1 for size in self.sizes):
            raise ConfigError(f"an input size must be at least 1 pixel; got {min(self.sizes)}")
        for name, value in (("max-ms", self.max_ms), ("minutes", self.minutes)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"--{name} must be above 0; got {value}")
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"threads must be at least 1; got {self.threads}")
        assert self.protocol  # which refuses an unknown mode

    @property
    def protocol(self) -> LatencyProtocol:
        """How long each candidate is measured."""
        return protocol_for(self.mode, runs=self.runs, seconds=self.seconds)

    @property
    def wants_int8(self) -> bool:
        """Whether any INT8 candidate is asked for."""
        return not self.precisions or any(name.startswith("int8") for name in self.precisions)

    @property
    def wants_float(self) -> bool:
        """Whether any other candidate is asked for."""
        return not self.precisions or any(not name.startswith("int8") for name in self.precisions)

    @property
    def is_noise(self) -> bool:
        """Whether the data is noise, which no accuracy can be measured on."""
        return self.data.partition(":")[0] == NOISE

    def check(self, candidates: list[str] | None) -> CheckSettings:
        """How to check one bundle.

        Args:
            candidates: Those of it that are asked for; None: all.
        """
        return CheckSettings(
            candidates=candidates,
            threads=self.threads,
            mode=self.mode,
            seconds=self.seconds,
            runs=self.runs,
            judge=False,
        )


def precision_names(target: Target) -> tuple[str, ...]:
    """What `precisions` may hold for a target: its precisions, and names that its INT8 candidates may have."""
    kinds = {*target.precisions, *(variant.precision for variant in target.variants)}
    plain = _int8_names() if "int8" in kinds else []
    ways = [name for variant in target.variants if variant.of == "int8" for name in _called(variant)]
    return (*(p for p in PRECISIONS if p in kinds), *plain, *ways)


def lacking(settings: SweepSettings, device: Device) -> dict[str, str]:
    """By precision that was asked for and that this device cannot run, the reason."""
    return {
        name: reason
        for variant in TARGETS.get(settings.target).variants
        if variant.needs is not None and (reason := device.lacks(variant.needs)) is not None
        for name in settings.precisions
        if name in _called(variant)
    }


def _called(variant: Variant) -> list[str]:
    """What a user may write for a variant."""
    if variant.of == "int8":
        return [variant.name.format(flavour=name) for name in _int8_names()]
    return [variant.precision]


def _int8_names() -> list[str]:
    return [f"int8-{placement}" for placement in PLACEMENTS.names()]
