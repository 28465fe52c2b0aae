"""What stands between this machine and a good measurement, each with its cure; read, never changed.

Packages are looked up in their metadata: nothing heavy is imported,
and a broken torch cannot break the doctor.
"""

from __future__ import annotations

import sys
from pathlib import Path

from edgemim.runtime.device import Device, describe_device
from edgemim.runtime.doctor._finding import Finding
from edgemim.runtime.doctor.engines import about_backends, about_onnxruntime
from edgemim.runtime.doctor.jetson import about_jetson, required_numpy
from edgemim.runtime.doctor.machine import about_clock, about_instructions, about_memory, about_power
from edgemim.runtime.doctor.packages import about_packages, about_python
from edgemim.runtime.doctor.place import find_place


def diagnose(device: Device | None = None, root: Path = Path("/")) -> list[Finding]:
    """Look at this machine; the order is that of the questions a user would ask.

    Args:
        device: By default this machine, as `root` describes it.
        root: The folder that holds `proc`, `sys`, `etc`, `usr` and `var`.
    """
    device = device or describe_device(root)
    place = find_place(root)
    return [
        about_python(sys.version_info[:2]),
        *about_packages(required_numpy(device)),
        *about_backends(),
        *about_onnxruntime(device),
        about_instructions(device),
        *about_clock(device),
        about_memory(device),
        about_power(root),
        *about_jetson(device, place),
    ]
