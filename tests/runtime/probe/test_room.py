"""`edgemim.runtime.probe.room`: what is left here, and what fits into it together; machines are folders here."""

from __future__ import annotations

import mmap
import resource
import sys
from pathlib import Path

import pytest

from edgemim.errors import DeviceError
from edgemim.runtime.probe.room import Footprint, Taken, refuse_if_too_large, taken

MB = 1_000_000


def footprint(label: str, own: int, *, library: int = 0, backend: str = "fake", module: str = "no_such") -> Footprint:
    """Of one that takes so many MB, of everything alike."""

    def megabytes(n: int) -> Taken:
        return Taken(resident=n * MB, address=n * MB, data=n * MB)

    return Footprint(label=label, backend=backend, module=module, library=megabytes(library), own=megabytes(own))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 1,024 MB available, and no limit."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    files = {
        "proc/self/cgroup": "0::/a\n",
        "proc/self/status": "Name:\tx\nVmSize:\t  200000 kB\nVmData:\t  50000 kB\n",
        "proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable:  1000000 kB\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_what_fits_is_let_through_and_what_does_not_names_all_and_what_to_do(machine: Path) -> None:
    refuse_if_too_large([footprint("a on fake", 500), footprint("b on fake", 500)], machine)
    with pytest.raises(DeviceError) as caught:
        refuse_if_too_large([footprint("a on fake", 500), footprint("b on fake", 600)], machine)
    assert str(caught.value) == (
        "a on fake, b on fake ran alone, but open together they need about 1,100 MB, and 1,024 MB are left "
        "(this machine's memory); close other programs, raise the limit, or measure fewer at a time with --candidate"
    )


def test_a_library_counts_once_a_backend_and_not_where_it_is_here_already(machine: Path) -> None:
    both = [footprint("a on fake", 400, library=200), footprint("b on fake", 400, library=200)]
    refuse_if_too_large(both, machine)
    other = footprint("c on other", 0, library=200, backend="other", module="no_such_either")
    with pytest.raises(DeviceError, match="need about 1,200 MB"):
        refuse_if_too_large([*both, other], machine)
    assert "numpy" in sys.modules
    refuse_if_too_large([*both, footprint("c on other", 0, library=200, backend="other", module="numpy")], machine)


@pytest.mark.parametrize(
    ("files", "group"),
    [
        ({"memory.max": "900000000", "memory.current": "500000000", "memory.stat": "inactive_file 100000000"}, ""),
        (
            {
                "memory.limit_in_bytes": "900000000",
                "memory.usage_in_bytes": "500000000",
                "memory.stat": "inactive_file 1\ntotal_inactive_file 100000000",
            },
            "memory",
        ),
    ],
)
def test_a_control_group_leaves_what_it_has_not_used_and_the_files_it_can_read_again(
    machine: Path, files: dict[str, str], group: str
) -> None:
    (machine / "proc/self/cgroup").write_text(f"4:{group}:/a\n" if group else "0::/a\n")
    folder = machine / "sys/fs/cgroup" / group / "a"
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    refuse_if_too_large([footprint("a on fake", 500)], machine)
    with pytest.raises(DeviceError, match=r"501 MB, and 500 MB are left \(the limit of the control group\)"):
        refuse_if_too_large([footprint("a on fake", 501)], machine)


def test_a_limit_of_the_process_leaves_what_it_has_not_taken(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def limits(which: int) -> tuple[int, int]:
        return (700 * MB if which == resource.RLIMIT_AS else resource.RLIM_INFINITY), resource.RLIM_INFINITY

    monkeypatch.setattr(resource, "getrlimit", limits)
    refuse_if_too_large([footprint("a on fake", 495)], machine)
    with pytest.raises(DeviceError, match=r"496 MB, and 495 MB are left \(ulimit -v\)"):
        refuse_if_too_large([footprint("a on fake", 496)], machine)


def test_where_nothing_can_be_read_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    refuse_if_too_large([footprint("a on fake", 10**9)], tmp_path)
    assert taken(tmp_path) is None


def test_what_this_process_takes_grows_with_what_it_holds() -> None:
    before = taken()
    if before is None:
        pytest.skip("this kernel does not tell")
    held = mmap.mmap(
        -1, 80 * MB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    )  # past the allocator, which may have room of its own
    held.write(bytes([1]) * len(held))
    after = taken()
    assert after is not None
    grown = after - before
    assert min(grown.resident, grown.address, grown.data) > 70 * MB
    held.close()
    most = taken(at_most=True)
    assert most is not None
    assert most.address >= after.address
