"""Settings of how a stream is shuffled."""

from __future__ import annotations

from dataclasses import dataclass

from edgemim.errors import ConfigError

MB = 1_000_000


@dataclass(frozen=True, kw_only=True)
class StreamSettings:
    """In what portions a set that is not copied is shuffled; without effect on other sets.

    Args:
        window_mb: Encoded images that are mixed with one another, in MB (10^6 bytes), and about the memory that they
            take on a machine.
        lanes: Shares of a window that the batches take in turn, each from shards of its own. A number that
            `training.workers` divides lets every worker keep its share in memory and no other.
    """

    window_mb: int = 512
    lanes: int = 4

    def __post_init__(self) -> None:
        for name in ("window_mb", "lanes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"stream.{name} must be at least 1; got {getattr(self, name)}")

    @property
    def window_bytes(self) -> int:
        """Largest window, in bytes."""
        return self.window_mb * MB
