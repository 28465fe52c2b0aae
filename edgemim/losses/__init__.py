"""Losses between what a student predicts and what it should have: each file is one distance."""

from edgemim.registry import Registry

LOSSES = Registry("loss", __name__, plural="losses")
