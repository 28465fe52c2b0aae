"""What the processes of a run decide together in the middle of it: to save now, or to stop after this step.

A signal reaches them at different steps, and each has its own clock, but all have to act at the same step: saving is
done together, and who stops alone leaves the others waiting for ever. So each step every process says what it wants,
and learns what was wanted a step before; nobody waits for an answer, and nothing waits for the device.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from edgemim.training.loop.processes import ALONE, Team


class Agreement:
    """Numbers that the processes give at each step; the largest of each counts.

    Args:
        team: The processes. One on its own hears itself at once.
    """

    def __init__(self, team: Team = ALONE) -> None:
        self.team = team
        self._asked: tuple[Any, torch.Tensor] | None = None

    def on(self, *wishes: int, at_once: bool = False) -> tuple[int, ...]:
        """Say what this process wants; all call it, at the same steps.

        Args:
            wishes: Small numbers, 0 for nothing.
            at_once: Wait for the answer to these very wishes, at the last step of all.

        Returns:
            The largest wish of all processes, for each: of the call before, zeros where there was none.
        """
        if self.team.count == 1:
            return wishes
        before = self._answer()
        tensor = torch.tensor(wishes, dtype=torch.int64)
        work = dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self.team.control, async_op=True)
        self._asked = (work, tensor)
        if at_once:
            return tuple(map(max, before or wishes, self._answer() or wishes))
        return before or tuple(0 for _ in wishes)

    def _answer(self) -> tuple[int, ...] | None:
        if self._asked is None:
            return None
        (work, tensor), self._asked = self._asked, None
        work.wait()
        return tuple(int(value) for value in tensor)
