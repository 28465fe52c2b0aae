"""Range estimators: from the histogram of an activation to the largest magnitude that its INT8 range holds."""

from __future__ import annotations

from edgemim.registry import Registry

RANGES = Registry("range estimator", __name__, plural="ranges")
