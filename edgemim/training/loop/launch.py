"""Which process of a run this is, as a launcher says it in the environment; needs no torch.

torchrun sets RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT, and so may any other
launcher. srun of SLURM sets variables of a job step. A batch script that calls edgemim without srun is no job step: it
is one process, however many tasks the job has.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from edgemim.errors import ConfigError

# Below the ports that Linux hands out for outgoing connections.
_FIRST_PORT, _PORTS = 15_000, 15_000


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One process among those that were started for a run.

    Attributes:
        rank: Its number among all of them, from 0.
        count: How many there are.
        local_rank: Its number among those on its machine, from 0.
        local_count: How many there are on its machine.
        address, port: Where the first process can be reached; not used where there is one process.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1
    address: str = ""
    port: int = 0

    @property
    def cores(self) -> int:
        """Processor cores for this process: those that it may use, shared by the processes of its machine."""
        allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, allowed // self.local_count)


def launched(environment: Mapping[str, str] | None = None) -> Launch:
    """What the launcher says; one process on its own where there is none.

    Args:
        environment: The process's own by default.

    Raises:
        ConfigError: A variable is missing, or makes no sense.
    """
    given = os.environ if environment is None else environment
    if "RANK" in given and "WORLD_SIZE" in given:
        return _of_torchrun(given)
    if "SLURM_STEP_NUM_TASKS" in given and "SLURM_PROCID" in given:
        return _of_srun(given)
    return Launch()


def _of_torchrun(given: Mapping[str, str]) -> Launch:
    count = _number(given, "WORLD_SIZE", least=1)
    if count == 1:
        return Launch()
    if not given.get("MASTER_ADDR"):
        raise ConfigError(f"WORLD_SIZE is {count}, but MASTER_ADDR is not set; start the processes with torchrun")
    return _checked(
        Launch(
            rank=_number(given, "RANK"),
            count=count,
            local_rank=_number(given, "LOCAL_RANK", default="0"),
            local_count=_number(given, "LOCAL_WORLD_SIZE", default="1", least=1),
            address=given["MASTER_ADDR"],
            port=_number(given, "MASTER_PORT"),
        )
    )


def _of_srun(given: Mapping[str, str]) -> Launch:
    count = _number(given, "SLURM_STEP_NUM_TASKS", least=1)
    if count == 1:
        return Launch()
    nodes = given.get("SLURM_STEP_NODELIST") or given.get("SLURM_NODELIST", "")
    alone = given.get("SLURM_STEP_NUM_NODES", "") == "1"
    # Two steps, of one job or of two, on the same machine must not meet.
    job = _number(given, "SLURM_JOB_ID", default="0") + _number(given, "SLURM_STEP_ID", default="0")
    here = _tasks_here(given.get("SLURM_STEP_TASKS_PER_NODE", ""), _number(given, "SLURM_NODEID", default="0"))
    return _checked(
        Launch(
            rank=_number(given, "SLURM_PROCID"),
            count=count,
            local_rank=_number(given, "SLURM_LOCALID"),
            local_count=here or count,
            address=given.get("MASTER_ADDR") or ("127.0.0.1" if alone else first_host(nodes)),
            port=_number(given, "MASTER_PORT", default=str(_FIRST_PORT + job % _PORTS)),
        )
    )


def first_host(nodes: str) -> str:
    """The first of a list of hosts as SLURM writes it, such as `gpu[07-09,12],login`."""
    match = re.match(r"([^,\[]*)(?:\[([^\],-]+)[^\]]*\]([^,]*))?", nodes)
    assert match is not None
    return "".join(part or "" for part in match.groups()) or "127.0.0.1"


def _tasks_here(text: str, node: int) -> int:
    """Tasks on the `node`-th machine of a step, of a list such as `4(x2),3`; 0 where it does not say."""
    counts: list[int] = []
    for entry in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", entry)
        if match is None:
            return 0
        counts += [int(match.group(1))] * int(match.group(2) or 1)
    return counts[node] if node < len(counts) else 0


def _number(given: Mapping[str, str], name: str, *, default: str = "", least: int = 0) -> int:
    text = given.get(name, default)
    if not text.isdecimal() or int(text) < least:
        raise ConfigError(
            f"the environment variable {name} is {text!r}, not a number of at least {least}; "
            "start the processes with torchrun or srun"
        )
    return int(text)


def _checked(launch: Launch) -> Launch:
    if launch.rank >= launch.count or launch.local_rank >= launch.local_count:
        raise ConfigError(
            f"this is process {launch.rank} of {launch.count}, and {launch.local_rank} of {launch.local_count} on its "
            "machine, says the launcher, but they are counted from 0; start the processes with torchrun or srun"
        )
    return launch
