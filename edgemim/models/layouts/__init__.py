"""Names that the tensors of public checkpoints have: one file per layout, named as users write it."""

from edgemim.registry import Registry

LAYOUTS = Registry("layout", __name__)
