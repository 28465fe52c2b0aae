"""Targets: what a kind of device runs, and what export and quantize must write for it."""

from edgemim.registry import Registry

TARGETS = Registry("target", __name__)
