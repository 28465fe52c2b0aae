"""Which activation is observed, under which name, and how closely."""

from __future__ import annotations

from dataclasses import dataclass

from edgemim.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One activation of a graph.

    Attributes:
        key: Name in the statistics, each once; it does not depend on the names that an exporter gives to values.
        value: Name of the value in the graph; several tensors may name the same one.
        channel_axis: Axis whose channels get a maximum each: -1 for what a linear reads, 1 for [N, C, H, W];
            None where one maximum of the whole is enough.
        histogram: Count the values; False where the maximum is enough, which makes collecting cheaper.
    """

    key: str
    value: str
    channel_axis: int | None = None
    histogram: bool = True

    def __post_init__(self) -> None:
        if not self.key or not self.value:
            raise ConfigError(f"a tensor needs a key and a value; got {self.key!r} and {self.value!r}")
