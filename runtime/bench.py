"""Bench bundles on this device: a check without gates and without a choice, of several bundles in turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgemim.errors import ConfigError
from edgemim.runtime.measuring import Progress
from edgemim.runtime.run import run
from edgemim.runtime.settings import CheckSettings


def bench_bundles(
    bundles: Sequence[Path | str],
    out: Path | str,
    settings: CheckSettings | None = None,
    *,
    cache: Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure every candidate of the bundles and write a report of kind `bench`.

    Args:
        settings: Of the measurement; gates in them, and those of the bundles, are not looked at.
        cache, overwrite, progress: See `edgemim.runtime.check.check_bundle`.

    Raises:
        ConfigError: No bundle, or one twice.
        EdgemimError: As `edgemim.runtime.check.check_bundle`.
    """
    if not bundles:
        raise ConfigError("no bundle was given to bench")
    places = [Path(bundle).resolve() for bundle in bundles]
    twice = [str(bundle) for bundle, place in zip(bundles, places, strict=True) if places.count(place) > 1]
    if twice:
        raise ConfigError(f"the bundle {twice[0]} was given twice")
    settings = replace(settings or CheckSettings(), judge=False)
    return run(bundles, out, settings, cache=cache, overwrite=overwrite, progress=progress)
