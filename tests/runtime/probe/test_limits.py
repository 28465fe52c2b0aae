"""`edgemim.runtime.probe`: where limits and the peak are read, on machines that are folders here."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from edgemim.runtime.probe.limits import memory_limit, process_limit
from edgemim.runtime.probe.resident import peak_resident_mb


@pytest.fixture(autouse=True)
def no_limit_of_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def machine(root: Path, group: str, limits: dict[str, str]) -> Path:
    files = {"proc/self/cgroup": group, "proc/meminfo": "MemTotal:  8000000 kB\nMemFree: 1 kB\n", **limits}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("group", "limits", "expected"),
    [
        ("0::/a/b\n", {"sys/fs/cgroup/a/memory.max": "2000000000\n"}, "2,000 MB (the limit of the control group)"),
        ("0::/a\n", {"sys/fs/cgroup/a/memory.max": "max\n"}, "8,192 MB (this machine's memory)"),
        # Inside a container the path is the host's, and the limit is at the top.
        ("0::/docker/1\n", {"sys/fs/cgroup/memory.max": "500000000"}, "500 MB (the limit of the control group)"),
        (
            "9:cpu:/x\n4:memory:/x\n0::/\n",
            {"sys/fs/cgroup/memory/x/memory.limit_in_bytes": "3000000000"},
            "3,000 MB (the limit of the control group)",
        ),
        ("4:memory:/\n", {"sys/fs/cgroup/memory/memory.limit_in_bytes": str(2**63 - 4096)}, "8,192 MB"),
    ],
)
def test_the_tightest_limit_is_named(tmp_path: Path, group: str, limits: dict[str, str], expected: str) -> None:
    assert memory_limit(machine(tmp_path, group, limits)).startswith(expected)


def test_a_limit_of_the_process_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert process_limit() is None
    monkeypatch.setattr(resource, "getrlimit", lambda _: (10**9, resource.RLIM_INFINITY))
    assert process_limit() == "1,000 MB (ulimit -d)"
    assert memory_limit(machine(tmp_path, "0::/\n", {})) == "1,000 MB (ulimit -d)"


def test_where_nothing_can_be_read_nothing_is_claimed(tmp_path: Path) -> None:
    assert memory_limit(tmp_path) == "the memory there is"


def test_the_peak_is_the_kernels_high_water_mark(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/status").write_text("Name:\tx\nVmHWM:\t  250000 kB\nVmRSS:\t  1 kB\n")
    assert peak_resident_mb(tmp_path) == pytest.approx(256.0)


def test_the_peak_stays_when_memory_is_given_back() -> None:
    # In a process of its own: more than the peak of this one would be gigabytes.
    code = (
        "import numpy as np; from edgemim.runtime.probe.resident import peak_resident_mb as peak; "
        "before = peak(); held = np.ones(10_000_000); with_it = peak(); del held; print(before, with_it, peak())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, with_it, after = map(float, done.stdout.split())
    assert with_it > before + 70
    # The kernel counts per thread and is off by some pages.
    assert after == pytest.approx(with_it, abs=2)
