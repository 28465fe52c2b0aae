"""Ranges of the activations that become INT8: what to observe, and which threshold each site gets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from edgemim.quantize.insert import levels
from edgemim.quantize.ranges import RANGES
from edgemim.quantize.sites import Site, Unit
from edgemim.quantize.statistics.store import Statistics
from edgemim.quantize.statistics.tensor import Tensor
from edgemim.runtime.targets._base import Target


def activations(units: Iterable[Unit]) -> dict[str, Site]:
    """The sites whose ranges come from images, by key, each once."""
    return {site.key: site for unit in units for site in unit.sites if not site.is_weight}


def tensors(sites: Mapping[str, Site]) -> list[Tensor]:
    """What calibration observes for these sites."""
    return [Tensor(key=key, value=site.value) for key, site in sites.items()]


def thresholds(sites: Mapping[str, Site], statistics: Statistics, ranges: str, target: Target) -> dict[str, float]:
    """The largest represented magnitude of every site, by key.

    Args:
        sites: By key.
        statistics: Of all their tensors.
        ranges: Name of the range estimator.
        target: Whether it has uint8 decides how many levels a site has.
    """
    estimator = RANGES.get(ranges)()
    unsigned = "uint8" in target.activation_dtypes
    return {
        key: estimator.threshold(statistics[key], levels=levels(site, unsigned=unsigned)) for key, site in sites.items()
    }


def record(found: Mapping[str, float], statistics: Statistics, alphas: Mapping[str, float]) -> dict[str, Any]:
    """What the calibration record says of every site, by key.

    Its maximum, its threshold and the share of values beyond it, all after smoothing; and the alpha of the smoothing,
    0 for none, where one was searched.
    """
    return {
        key: {
            "maximum": statistics[key].maximum,
            "threshold": threshold,
            "saturated": statistics[key].share_above(threshold),
            **({"alpha": alphas[key]} if key in alphas else {}),
        }
        for key, threshold in found.items()
    }
