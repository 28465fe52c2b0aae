"""What a launcher says in the environment, and what of it cannot be."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from edgemim.errors import ConfigError
from edgemim.training.loop.launch import Launch, first_host, launched

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29400",
}
# As srun sets them for the last of 7 tasks on three machines.
SRUN = {
    "SLURM_JOB_ID": "120034",
    "SLURM_STEP_ID": "1",
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_STEP_NUM_NODES": "3",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),3",
    "SLURM_STEP_NODELIST": "gpu[07-08,11]",
    "SLURM_NODEID": "2",
    "SLURM_PROCID": "6",
    "SLURM_LOCALID": "2",
}


def test_without_a_launcher_there_is_one_process() -> None:
    assert launched({}) == Launch()
    assert (Launch().rank, Launch().count) == (0, 1)


def test_torchrun_says_it_all() -> None:
    wanted = Launch(rank=5, count=8, local_rank=1, local_count=4, address="10.0.0.1", port=29400)
    assert launched(TORCHRUN) == wanted
    assert launched({**SRUN, **TORCHRUN}) == wanted  # torchrun started by srun


def test_a_launcher_that_starts_one_process_per_machine_need_not_say_where_it_is() -> None:
    few = {name: value for name, value in TORCHRUN.items() if not name.startswith("LOCAL")}
    assert (launched(few).local_rank, launched(few).local_count) == (0, 1)


def test_one_process_of_torchrun_is_alone() -> None:
    assert launched({**TORCHRUN, "WORLD_SIZE": "1", "RANK": "0"}) == Launch()


def test_srun_says_it_in_its_own_way() -> None:
    wanted = Launch(rank=6, count=7, local_rank=2, local_count=3, address="gpu07", port=15_000 + 120_035 % 15_000)
    assert launched(SRUN) == wanted


def test_what_the_user_says_of_the_first_machine_wins() -> None:
    found = launched({**SRUN, "MASTER_ADDR": "ib-gpu07", "MASTER_PORT": "4000"})
    assert (found.address, found.port) == ("ib-gpu07", 4000)


def test_a_step_on_one_machine_needs_no_name() -> None:
    assert launched({**SRUN, "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_TASKS_PER_NODE": "7", "SLURM_NODEID": "0"}) == (
        Launch(rank=6, count=7, local_rank=2, local_count=7, address="127.0.0.1", port=15_000 + 120_035 % 15_000)
    )


def test_a_batch_script_without_srun_is_one_process() -> None:
    job = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    assert launched(job) == Launch()


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu07", "gpu07"),
        ("gpu[07-09,12],login", "gpu07"),
        ("gpu[12,14-15]", "gpu12"),
        ("a,b", "a"),
        ("rack[1-3]-ib0,x", "rack1-ib0"),
        ("", "127.0.0.1"),
    ],
)
def test_the_first_of_a_list_of_hosts(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({**TORCHRUN, "RANK": "first"}, "RANK is 'first', not a number of at least 0"),
        ({**TORCHRUN, "WORLD_SIZE": "0"}, "WORLD_SIZE is '0', not a number of at least 1"),
        ({**TORCHRUN, "RANK": "8"}, "process 8 of 8"),
        ({**TORCHRUN, "LOCAL_RANK": "4"}, "4 of 4 on its machine"),
        ({**TORCHRUN, "MASTER_ADDR": ""}, "MASTER_ADDR is not set; start the processes with torchrun"),
        ({**TORCHRUN, "MASTER_PORT": ""}, "MASTER_PORT is ''"),
        ({**SRUN, "SLURM_LOCALID": "-1"}, "SLURM_LOCALID is '-1'"),
    ],
)
def test_what_cannot_be_is_refused_with_the_name_of_the_variable(wrong: Mapping[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        launched(wrong)


def test_the_processes_of_a_machine_share_its_cores() -> None:
    alone = Launch().cores
    assert alone >= 1
    assert Launch(count=2, local_count=2).cores == max(1, alone // 2)
    assert Launch(count=4096, local_count=4096).cores == 1
