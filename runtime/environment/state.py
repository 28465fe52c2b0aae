"""How the machine is set up at one moment."""

from __future__ import annotations

from dataclasses import dataclass

from edgemim.runtime.device import Device


@dataclass(frozen=True, kw_only=True)
class State:
    """The facts of a `Device` that may change while something is measured; None where one cannot be read.

    Attributes:
        governor, clocks_locked, power_mode, temperatures_c, load: As of the device.
        cpu_mhz, gpu_mhz: Clocks: the mean of the CPUs in use, and of the GPU on the chip. The machine may be idle.
        memory_available_mib: Of the machine.
    """

    governor: str | None
    power_mode: str | None
    clocks_locked: bool | None
    cpu_mhz: float | None
    gpu_mhz: float | None
    temperatures_c: dict[str, float]
    memory_available_mib: float | None
    load: float | None

    @classmethod
    def of(cls, device: Device) -> State:
        """What the device says now."""
        return cls(
            governor=device.governor,
            power_mode=device.power_mode,
            clocks_locked=device.clocks_locked,
            cpu_mhz=device.frequency_mhz,
            gpu_mhz=device.gpu_frequency_mhz,
            temperatures_c=device.temperatures_c,
            memory_available_mib=device.memory_available_mib,
            load=device.load,
        )
