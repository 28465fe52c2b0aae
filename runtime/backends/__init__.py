"""Backends: one inference engine each, its vendor package imported only when it is used."""

from edgemim.registry import Registry

BACKENDS = Registry("backend", __name__)
