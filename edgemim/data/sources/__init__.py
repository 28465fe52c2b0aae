"""Where images come from: one file per source, with the contract in `_base.py`."""

from edgemim.registry import Registry

SOURCES = Registry("data source", __name__)
