"""Masking strategies: each file draws one kind of `edgemim.models.mask_plan.MaskPlan`."""

from edgemim.registry import Registry

MASKINGS = Registry("masking", __name__)
