"""Memory that is kept between steps: fewer page faults, and all of it given back."""

from __future__ import annotations

import ctypes
import json
import resource
import subprocess
import sys
import textwrap

import pytest
import torch

from edgemim.training.loop.memory import kept_memory

MIB = 2**20

glibc = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")

# Run in a process of its own, as a training run is: what the heap of one that ran other tests looks like, and so
# whether the kernel lets it grow where it lies, is not ours to say.
IN_A_NEW_PROCESS = """
    import json, resource, torch
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
    with kept_memory(torch.device("cpu")):
        for _ in range(20):  # the heap grows for a few steps, until what is freed has room for what is asked
            faults_of_a_step()
        seen["kept"] = faults_of_a_step()
        seen["held"] = resident_mib()
    seen["after"] = resident_mib()
    seen["plain_again"] = faults_of_a_step()
    print(json.dumps(seen))
"""


def faults_of_a_step() -> int:
    """Pages that the kernel had to map for two blocks of 64 MiB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    first = torch.ones(16 * MIB)
    del first
    second = torch.ones(16 * MIB)
    del second
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@glibc
def test_a_later_step_asks_the_kernel_for_nothing_and_the_end_gives_all_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(IN_A_NEW_PROCESS)], capture_output=True, text=True, check=True
    )
    seen = json.loads(done.stdout)
    assert seen["kept"] < seen["plain"] / 10
    assert seen["before"] + 50 < seen["held"] < seen["before"] + 1024  # 21 steps of two blocks ask for 2,688 MiB
    assert seen["after"] < seen["before"] + 32
    assert seen["plain_again"] > seen["plain"] / 2  # as it was


def test_it_does_nothing_for_a_gpu() -> None:
    before = faults_of_a_step()
    with kept_memory(torch.device("cuda")):
        faults_of_a_step()
        assert faults_of_a_step() > before / 2
