"""Targets: what a kind of device runs, and what export and quantize must write for it."""

from edgemim.registry import Registry

# A bundle for one Orin board is right for each of them, and the smallest is the most common.
TARGETS = Registry("target", __name__, aliases={"jetson": "jetson-orin-nano"})
