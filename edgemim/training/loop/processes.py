"""The processes of one run: what they tell each other, and how the failure of one ends all of them.

torchrun or srun starts them, one for each GPU (or a few on the CPU); nothing here starts any. The first prepares the
folder and writes all that is written; the others compute their parts of each batch.

    with processes() as team:
        state = team.of_first(lambda: ...)      # found by the first, known to all
        ...
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from edgemim.errors import (
    EXIT_BUG,
    EXIT_INTERRUPTED,
    ConfigError,
    EdgemimError,
    EndedElsewhere,
    TrainingError,
)
from edgemim.training.loop.launch import Launch, launched

T = TypeVar("T")

_JOIN = timedelta(minutes=10)
_STEP = timedelta(minutes=30)  # a step waits while the first process saves, draws or measures
_PREPARE = timedelta(days=7)  # decoding a big set, or a last evaluation, is done by one process alone


@dataclass(frozen=True, kw_only=True)
class Team:
    """This process among those of a run; one process on its own by default.

    Attributes:
        launch: Who it is.
        device: On which it computes; None where it is alone and the choice is left to Lightning.
        control: The process group of what goes over the host's memory; None where it is alone.
    """

    launch: Launch = field(default_factory=Launch)
    device: torch.device | None = None
    control: Any = None

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""
        return self.launch.rank

    @property
    def count(self) -> int:
        """How many processes there are."""
        return self.launch.count

    @property
    def first(self) -> bool:
        """Whether this is the one that prepares, writes and speaks."""
        return self.rank == 0

    def wait(self) -> None:
        """Go on when all have come here."""
        if self.count > 1:
            dist.barrier(group=self.control)

    def of_first(self, make: Callable[[], T]) -> T:
        """What `make` returns in the first process; it is not called in the others.

        Its value has to survive JSON: the others get lists for tuples.
        """
        if self.count == 1:
            return make()
        told: T = json.loads(self._share(json.dumps(make() if self.first else None))[0])
        return told

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank; they have to survive JSON."""
        return [value] if self.count == 1 else [json.loads(text) for text in self._share(json.dumps(value))]

    def mean(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The mean over all processes of scalars that each has under the same names, on their device."""
        if self.count == 1 or not values:
            return dict(values)
        stacked = torch.stack([value.detach().float() for value in values.values()])
        dist.all_reduce(stacked)
        return dict(zip(values, (stacked / self.count).unbind(), strict=True))

    def _share(self, text: str) -> list[str]:
        """The texts of all processes, as padded bytes: nothing is pickled."""
        data = text.encode()
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.count)]
        dist.all_gather(sizes, torch.tensor([len(data)]), group=self.control)
        longest = max(int(size) for size in sizes)
        mine = torch.frombuffer(bytearray(data.ljust(longest)), dtype=torch.uint8)
        texts = [torch.zeros_like(mine) for _ in range(self.count)]
        dist.all_gather(texts, mine, group=self.control)
        return [bytes(t.tolist())[: int(size)].decode() for t, size in zip(texts, sizes, strict=True)]


ALONE = Team()


@contextmanager
def processes() -> Iterator[Team]:
    """Meet the other processes of this run, and end with them.

    Where one of them fails, it tells why, and all others end without a word and with its exit code.

    Raises:
        ConfigError: The launcher's variables make no sense, or two processes have the same GPU.
        TrainingError: Not all of them came, or one was killed.
        EndedElsewhere: Another one failed first.
    """
    launch = launched()
    if launch.local_rank == 0:
        _tell_of_idle_gpus(launch)
    if launch.count == 1:
        yield ALONE
        return
    store, team = _meet(launch)
    try:
        _refuse_shared_gpus(team)
        yield team
        team.wait()
    except BaseException as error:
        ending = _ending(error, store, team)
        if ending is error:
            raise
        raise ending from error
    dist.destroy_process_group()


def _meet(launch: Launch) -> tuple[Any, Team]:
    """The store that all processes share, and the team."""
    device = _device(launch)
    _share_cores(launch)
    # srun sets none of them; libraries look here too.
    names = {"MASTER_ADDR": launch.address, "MASTER_PORT": launch.port, "RANK": launch.rank, "WORLD_SIZE": launch.count}
    os.environ.update({name: str(value) for name, value in names.items()})
    try:
        store, rank, count = next(rendezvous("env://", launch.rank, launch.count, timeout=_JOIN))
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=_STEP)
        control = dist.new_group(backend="gloo", timeout=_PREPARE)
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"process {launch.rank} on {socket.gethostname()} did not meet the other {launch.count - 1} at "
            f"{launch.address}:{launch.port}: {_short(error)}; see that all are started, and that the port is free"
        ) from error
    return store, Team(launch=launch, device=device, control=control)


def _device(launch: Launch) -> torch.device:
    """The GPU of this process: by its number on the machine, or the one that the launcher lets it see."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    seen = torch.cuda.device_count()
    index = launch.local_rank if launch.local_rank < seen else 0
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def _refuse_shared_gpus(team: Team) -> None:
    """NCCL refuses it too, but does not say what to do."""
    assert team.device is not None
    if team.device.type != "cuda":
        return
    own = f"{socket.gethostname()} {torch.cuda.get_device_properties(team.device).uuid}"
    everyone = team.gather(own)
    twice = next((gpu for gpu in everyone if everyone.count(gpu) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"{everyone.count(twice)} processes on {twice.split()[0]} have the same GPU; "
            f"start at most one for each of the {torch.cuda.device_count()} (--nproc-per-node, --gpus-per-task)"
        )


def _share_cores(launch: Launch) -> None:
    """Threads of each process: without a word from the user every one of them would take all cores."""
    if "OMP_NUM_THREADS" not in os.environ and launch.local_count > 1:
        torch.set_num_threads(launch.cores)
        os.environ["OMP_NUM_THREADS"] = str(launch.cores)


def _tell_of_idle_gpus(launch: Launch) -> None:
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if seen > launch.local_count:
        sys.stderr.write(
            f"this machine has {seen} GPUs, {launch.local_count} of them trains; all of them: "
            f"torchrun --nproc-per-node={seen} -m edgemim ... (or srun), with the same options\n"
        )


def _ending(error: BaseException, store: Any, team: Team) -> BaseException:
    """What to end with: the error itself in the process that failed first, silence in the others."""
    if isinstance(error, EndedElsewhere):
        return error
    code = _exit_code(error)
    try:
        # Asked first: where nobody is left, torch would print a page.
        socket.create_connection((team.launch.address, team.launch.port), timeout=5).close()
        first = store.add("edgemim/ended", 1) == 1
        if first:
            store.set("edgemim/code", str(code))
        else:
            store.wait(["edgemim/code"], timedelta(seconds=5))
            code = int(store.get("edgemim/code"))
    except (OSError, RuntimeError, ValueError):
        # The process that holds the store has gone: it has told why, or srun names it.
        first = False
    if not first:
        return EndedElsewhere(code)
    if _is_lost_connection(error):
        return TrainingError(
            "another process of this run has gone without a word (killed, out of memory, or its machine is down); "
            "run the same command with --resume to go on from the last saved state"
        )
    return error


def _exit_code(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    if isinstance(error, EdgemimError):
        return error.exit_code
    return TrainingError.exit_code if _is_lost_connection(error) else EXIT_BUG


def _is_lost_connection(error: BaseException) -> bool:
    """gloo throws plain RuntimeErrors that name a file of its transport."""
    if isinstance(error, EdgemimError):
        return False
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())


def _short(error: BaseException) -> str:
    with contextlib.suppress(IndexError):
        return str(error).splitlines()[0][:200]
    return type(error).__name__
