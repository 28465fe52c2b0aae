"""Memory that is kept between steps: fewer page faults, and all of it given back."""

from __future__ import annotations

import ctypes
import resource
from pathlib import Path

import pytest
import torch

from edgemim.training.loop.memory import kept_memory

CPU = torch.device("cpu")
MIB = 2**20

glibc = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")


def faults_of_a_step() -> int:
    """Pages that the kernel had to map for two blocks of 64 MiB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    first = torch.ones(16 * MIB)
    del first
    second = torch.ones(16 * MIB)
    del second
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / MIB


@glibc
def test_the_second_step_asks_the_kernel_for_nothing_and_the_end_gives_all_back() -> None:
    before = resident_mib()
    plain = faults_of_a_step()
    with kept_memory(CPU):
        faults_of_a_step()
        kept = faults_of_a_step()
        assert resident_mib() > before + 50
    assert kept < plain / 10
    assert resident_mib() < before + 32
    assert faults_of_a_step() > plain / 2  # as it was


def test_it_does_nothing_for_a_gpu() -> None:
    before = faults_of_a_step()
    with kept_memory(torch.device("cuda")):
        faults_of_a_step()
        assert faults_of_a_step() > before / 2
