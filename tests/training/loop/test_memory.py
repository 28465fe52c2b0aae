"""Memory that is kept between steps: fewer page faults, and all of it given back."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import textwrap

import pytest

glibc = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")

# Run in a process of its own, as a training run is: what the heap of one that ran other tests looks like, and so
# whether the kernel lets it grow where it lies, is not ours to say.
IN_A_NEW_PROCESS = """
    import json, resource, sys, torch
    from pathlib import Path
    from edgemim.training.loop.memory import kept_memory

    MIB = 2**20

    def faults_of_a_step():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        first = torch.ones(16 * MIB)
        del first
        second = torch.ones(16 * MIB)
        del second
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    def resident_mib():
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / MIB

    faults_of_a_step()  # what torch itself loads at its first use
    seen = {"before": resident_mib(), "plain": faults_of_a_step()}
    with kept_memory(torch.device(sys.argv[1])):
        for _ in range(20):  # the heap grows for a few steps, until what is freed has room for what is asked
            faults_of_a_step()
        seen["kept"] = faults_of_a_step()
        seen["held"] = resident_mib()
    seen["after"] = resident_mib()
    seen["plain_again"] = faults_of_a_step()
    print(json.dumps(seen))
"""


def seen_with(device: str) -> dict[str, float]:
    """Page faults of a step, and MiB that are resident, before, while and after memory is kept."""
    command = [sys.executable, "-c", textwrap.dedent(IN_A_NEW_PROCESS), device]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seen: dict[str, float] = json.loads(done.stdout)
    return seen


@glibc
def test_a_later_step_asks_the_kernel_for_nothing_and_the_end_gives_all_back() -> None:
    seen = seen_with("cpu")
    assert seen["kept"] < seen["plain"] / 10
    assert seen["before"] + 50 < seen["held"] < seen["before"] + 1024  # 21 steps of two blocks ask for 2,688 MiB
    assert seen["after"] < seen["before"] + 32
    assert seen["plain_again"] > seen["plain"] / 2  # as it was


@glibc
def test_it_does_nothing_for_a_gpu() -> None:
    seen = seen_with("cuda")
    assert seen["kept"] > seen["plain"] / 2
    assert seen["held"] < seen["before"] + 32
