"""How much memory a process may have here, to say so where one was killed."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_PROCESS = (("RLIMIT_AS", "ulimit -v"), ("RLIMIT_DATA", "ulimit -d"))
_FIRST = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_SECOND = ("memory.max", "memory.current", "inactive_file")


def memory_limit(root: Path = Path("/")) -> str:
    """The tightest limit as a phrase: `2,000 MB (ulimit -v)`; "the memory there is" where none can be read."""
    limits = [*_of_process(), *_of_group(root), *_of_machine(root)]
    return _phrase(*min(limits)) if limits else "the memory there is"


def process_limit() -> str | None:
    """The tighter limit that was set for this process and its children alone; None if there is none."""
    limits = list(_of_process())
    return _phrase(*min(limits)) if limits else None


def _phrase(size: int, name: str) -> str:
    return f"{size / 1e6:,.0f} MB ({name})"


def _of_process() -> Iterator[tuple[int, str]]:
    for name, called in _PROCESS:
        soft, _ = resource.getrlimit(getattr(resource, name))
        if soft != resource.RLIM_INFINITY:
            yield soft, called


def _of_group(root: Path) -> Iterator[tuple[int, str]]:
    for folder, (limit, *_) in group_folders(root):
        text = read_text(folder / limit).strip()
        if text.isdecimal():
            yield int(text), "the limit of the control group"


def group_folders(root: Path) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """Folders of this process's control group and those around it, in either version of the interface.

    With each go the names of the file of its limit, of the file of what is used, and of the line in `memory.stat` that
    says how much of that are files which can be read again.
    """
    for line in read_text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top, names = ("memory", _FIRST) if controllers else ("", _SECOND)
        group = PurePosixPath(path)
        # A container may see itself as the top, whatever path its group has outside.
        for folder in (group, *group.parents):
            yield root / "sys/fs/cgroup" / top / folder.relative_to("/"), names


def _of_machine(root: Path) -> Iterator[tuple[int, str]]:
    for line in read_text(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            yield int(line.split()[1]) * 1024, "this machine's memory"


def read_text(path: Path) -> str:
    """What a file of the kernel says; empty where it cannot be read."""
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError:
        return ""
