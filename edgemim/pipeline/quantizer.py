"""The quantizer that settings name, looked up before anything is exported so that a wrong name costs no time."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from edgemim.errors import ConfigError

if TYPE_CHECKING:
    from edgemim.quantize.quantizers._base import Quantizer


def choose_quantizer(
    name: str, *, ranges: str = "", placements: tuple[str, ...] = (), search: bool = False
) -> Quantizer:
    """Find a quantizer and give it what the user chose.

    Args:
        name: Registered name.
        ranges: Name of its range estimator; empty: its own default.
        placements: Names of those it makes flavours of; empty: those it takes by itself.
        search: Whether placements will be searched, which only `ptq` can do.

    Raises:
        ConfigError: An unknown name, or something that this quantizer cannot be given.
    """
    from edgemim.quantize.placement import PLACEMENTS
    from edgemim.quantize.quantizers import QUANTIZERS
    from edgemim.quantize.ranges import RANGES

    name = QUANTIZERS.find(name)
    found = QUANTIZERS.get(name)
    if search and name != "ptq":
        raise ConfigError(
            f"--precision auto searches among edgemim's own placements; got quantizer {name!r}: leave it out, or take "
            "--precision int8"
        )
    chosen: dict[str, Any] = {}
    if ranges:
        chosen["ranges"] = RANGES.find(ranges)
    if placements:
        chosen["placements"] = tuple(dict.fromkeys(PLACEMENTS.find(placement) for placement in placements))
    taken = {field.name for field in fields(found)}
    for option in chosen:
        if option not in taken:
            raise ConfigError(
                f"quantizer {name!r} chooses its {option} itself; leave them out, or take quantizer 'ptq'"
            )
    quantizer: Quantizer = found(**chosen)
    return quantizer
