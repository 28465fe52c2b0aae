"""Placements: which tensors of a graph become INT8."""

from __future__ import annotations

from edgemim.registry import Registry

PLACEMENTS = Registry("placement", __name__)
