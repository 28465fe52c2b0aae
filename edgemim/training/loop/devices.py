"""What Lightning is told about processes and devices: it starts nothing and chooses nothing itself.

Left to itself Lightning asks SLURM's variables too, and then requeues the job and saves in its own way at a signal. And
where it knows of several processes it waits for the device in every step, to hear whether the first one got a signal.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from edgemim.training.loop.processes import Team


def devices_of(team: Team) -> dict[str, Any]:
    """Arguments of Lightning's Trainer: this process's device, and gradients that are averaged over all processes."""
    if team.device is None:
        return {"accelerator": "auto", "devices": 1}
    # Buffers are constants, or statistics of a norm that only the first process's checkpoint needs.
    strategy = DDPStrategy(broadcast_buffers=False)
    number = [team.device.index] if team.device.type == "cuda" else 1
    return {"accelerator": team.device.type, "devices": number, "strategy": strategy}


def tell_less(module: nn.Module, unused: Iterable[str]) -> None:
    """Leave all but what is trained out of what the processes tell each other, at the beginning and in each step.

    A frozen teacher came from the same files everywhere, or is spread over the processes.

    Args:
        module: Before Lightning gets it.
        unused: Names of its trainable parameters that never get a gradient: they would be waited for.
    """
    frozen = [name for name, parameter in module.named_parameters() if not parameter.requires_grad]
    names = [*frozen, *unused, *(name for name, _ in module.named_buffers())]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, names)


class Told(ClusterEnvironment):
    """The processes as Lightning's plugin for clusters: each has its rank, and is the only one that it knows of.

    Args:
        team: The processes of the run.
    """

    def __init__(self, team: Team) -> None:
        super().__init__()
        self.team = team

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return self.team.launch.address

    @property
    def main_port(self) -> int:
        return self.team.launch.port

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return 1

    def set_world_size(self, size: int) -> None:
        """It is what the launcher said."""

    def global_rank(self) -> int:
        return self.team.rank

    def set_global_rank(self, rank: int) -> None:
        """It is what the launcher said."""

    def local_rank(self) -> int:
        return 0

    def node_rank(self) -> int:
        return self.team.rank
