"""Pretraining and distillation methods: each file is one paper, readable from top to bottom."""

from edgemim.registry import Registry

METHODS = Registry("method", __name__)
