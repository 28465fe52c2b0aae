"""How the batch of a step is divided: over processes, and over the passes that one process makes before it updates.

A part has its place in the batch and its own random numbers, whoever computes it. So a step of two processes, and one
of a single process that accumulates over two parts, differ in nothing but the order of a sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lightning as L

from edgemim.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts of a batch, and those that this process computes.

    Attributes:
        total: Parts of a batch.
        mine: Indices of this process's parts, in the order in which it computes them.
    """

    total: int = 1
    mine: range = range(1)

    @classmethod
    def of(cls, *, rank: int, processes: int, accumulate: int) -> Parts:
        """The parts of process `rank` where each of `processes` makes `accumulate` passes per step."""
        return cls(total=processes * accumulate, mine=range(rank * accumulate, (rank + 1) * accumulate))

    def size(self, batch_size: int) -> int:
        """Images of one part.

        Raises:
            ConfigError: The batch cannot be divided evenly.
        """
        if batch_size % self.total:
            fitting = max(self.total, batch_size // self.total * self.total)
            raise ConfigError(
                f"training.batch_size {batch_size} cannot be divided into {self.total} equal parts (processes times "
                f"training.accumulate); set --batch-size {fitting}"
            )
        return batch_size // self.total

    def of_batch(self, batch_idx: int) -> int:
        """Which part the `batch_idx`-th batch of this process is."""
        return self.mine[batch_idx % len(self.mine)]

    def recount(self, checkpoint: dict[str, Any]) -> None:
        """Turn the batches that a saved state of Lightning has counted, those of the process that saved it, into mine.

        Args:
            checkpoint: After a whole step; changed in place.
        """
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        batches = checkpoint["global_step"] * len(self.mine)
        for counts in (progress["total"], progress["current"]):
            # The last batch was not over when the state was saved at its end.
            unfinished = counts["ready"] - counts["completed"]
            counts |= {"ready": batches, "started": batches, "processed": batches, "completed": batches - unfinished}
        # A run that was over may have been made longer: its last batch is not the last one any more.
        progress["is_last_batch"] = False

    def ends_step(self, batch_idx: int) -> bool:
        """Whether the optimiser has taken its step when the `batch_idx`-th batch is done."""
        return (batch_idx + 1) % len(self.mine) == 0


def ends_step(trainer: L.Trainer, batch_idx: int) -> bool:
    """Whether the optimiser has taken its step when the `batch_idx`-th batch is done; for callbacks."""
    accumulate: int = trainer.accumulate_grad_batches
    return (batch_idx + 1) % accumulate == 0
