"""What a method remembers of the patches of each training image, from one look at all of them to the next.

    memory = PatchMemory(patches=196)
    memory.reserve(images=50_000, fingerprint=sha256)     # before a saved state is loaded
    memory.write(index, rows)                              # float [B, 196]
    rows = memory.read(index)                              # float32 [B, 196]

A method keeps it as `memory`: by that name it is saved with a run's state, so that a run that is killed loses nothing,
and with nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgemim.errors import TrainingError


class PatchMemory(nn.Module):
    """A row of numbers for each image, all 1 at first; in half precision, since a big set has many.

    Args:
        patches: Numbers in a row.

    Raises:
        TrainingError: A state is loaded that belongs to other images.
    """

    rows: Tensor
    fingerprint: Tensor

    def __init__(self, patches: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.ones(0, patches, dtype=torch.float16))
        self.register_buffer("fingerprint", torch.zeros(32, dtype=torch.uint8))
        self.register_load_state_dict_pre_hook(lambda memory, state, prefix, *_: memory.refuse_others(state, prefix))

    def reserve(self, images: int, fingerprint: str) -> None:
        """Make room for `images` rows.

        Args:
            images: In the training set.
            fingerprint: sha256 (hex) of the set and of how its images are shown.
        """
        self.rows = self.rows.new_ones(images, self.rows.shape[1])
        self.fingerprint = torch.tensor(list(bytes.fromhex(fingerprint)), dtype=torch.uint8, device=self.rows.device)

    def read(self, index: Tensor) -> Tensor:
        """float32 [B, patches]: the rows of the images `index`, int64 [B]."""
        return self.rows[index].float()

    def write(self, index: Tensor, rows: Tensor) -> None:
        """Replace the rows of the images `index`, int64 [B], by [B, patches]."""
        self.rows.index_copy_(0, index, rows.to(self.rows.dtype))

    def refuse_others(self, state: Mapping[str, Tensor], prefix: str = "") -> None:
        """Refuse what a saved state remembers of other images, or of the same ones as they were shown otherwise.

        Args:
            state: Tensors by name; those of a memory need not be among them.
            prefix: Of its names.

        Raises:
            TrainingError: Names both fingerprints.
        """
        saved = state.get(f"{prefix}fingerprint")
        # Zeros stand where nothing is remembered.
        if saved is None or not saved.any() or not self.fingerprint.any():
            return
        if not torch.equal(saved.cpu(), self.fingerprint.cpu()):
            raise TrainingError(
                "what is remembered belongs to other images or another transform than those of this run (fingerprint "
                f"{_short(saved)}, these have {_short(self.fingerprint)}); resume with the data and the preprocessing "
                "that it was started with, or start anew with --overwrite"
            )


def _short(fingerprint: Tensor) -> str:
    return bytes(fingerprint.tolist()).hex()[:12]
