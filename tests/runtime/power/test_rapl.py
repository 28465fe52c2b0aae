"""`edgemim.runtime.power.rapl`: counters in, joules out, across their turns."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edgemim.runtime.power import rapl
from edgemim.runtime.power._base import UnreadableError, number
from edgemim.runtime.power.rapl import Rapl, find


def machine(root: Path) -> Rapl:
    source = find(root)
    assert source is not None
    return source


def count(root: Path, zone: str, microjoules: int) -> None:
    (root / f"sys/class/powercap/{zone}/energy_uj").write_text(f"{microjoules}\n")


def test_package_and_memory_are_added_the_rest_is_reported(x86: Path) -> None:
    source = machine(x86)
    assert source.rails == ("package-0", "package-0/core", "package-0/dram", "psys")
    assert source.parts == ("package-0", "package-0/dram")
    assert source.scope == "the processor packages, and their memory"


def test_a_counter_tells_joules_since_it_was_found(x86: Path) -> None:
    source = machine(x86)
    assert source.read()["package-0"] == 0
    count(x86, "intel-rapl:0", 7_500_000)
    assert source.read()["package-0"] == pytest.approx(2.5)


def test_a_counter_that_starts_again_goes_on(x86: Path) -> None:
    # 0.1 J before its turn of 65,712.999613 J, then 0.4 J after it: 0.5 J; and once around again to the same place.
    count(x86, "intel-rapl:0:1", 65_712_899_613)
    source = machine(x86)
    count(x86, "intel-rapl:0:1", 400_000)
    assert source.read()["package-0/dram"] == pytest.approx(0.5)
    count(x86, "intel-rapl:0:1", 300_000)
    assert source.read()["package-0/dram"] == pytest.approx(0.5 + 65_712.999613 - 0.1)


def test_an_amd_package_without_memory_says_so(tree: Callable[..., Path]) -> None:
    folder = "sys/class/powercap/intel-rapl:0"
    files = {"name": "package-0", "energy_uj": "1", "max_energy_range_uj": "65532610987"}
    source = machine(tree({f"{folder}/{name}": text for name, text in files.items()}))
    assert source.parts == ("package-0",)
    assert source.scope == "the processor packages, without memory"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_counters_for_root_alone_say_what_to_run(x86: Path) -> None:
    for file in x86.glob("sys/class/powercap/*/energy_uj"):
        file.chmod(0)
    with pytest.raises(UnreadableError, match=r"for root alone.* run: sudo chmod a\+r"):
        find(x86)


def test_counters_that_refuse_say_what_to_run(x86: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> int:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(path))
        return number(path)

    monkeypatch.setattr(rapl, "number", refused)
    with pytest.raises(UnreadableError, match=r"for root alone.* run: sudo chmod a\+r"):
        find(x86)


def test_a_counter_without_a_range_is_not_trusted(x86: Path) -> None:
    (x86 / "sys/class/powercap/intel-rapl:1/max_energy_range_uj").write_text("0\n")
    with pytest.raises(UnreadableError, match="intel-rapl:1 counts up to 0"):
        find(x86)


def test_a_virtual_machine_has_none(tmp_path: Path) -> None:
    assert find(tmp_path) is None
