"""What can be compared: the same input, and for accuracy the same images."""

from __future__ import annotations

from collections.abc import Sequence

from edgemim.errors import ConfigError
from edgemim.runtime.bundle import Bundle
from edgemim.runtime.compare.entries import Entry


def refuse_unlike(entries: Sequence[Entry], *, latency_only: bool) -> None:
    """Refuse entries whose latencies, or accuracies, do not mean the same.

    Raises:
        ConfigError: Their graphs take inputs of another size, encoding or batch; or, unless `latency_only`, their
            bundles carry different evaluation images.
    """
    first, *others = entries
    for other in others:
        if _input(other.bundle) != _input(first.bundle):
            raise ConfigError(
                f"{first.label} takes {_input(first.bundle)}, {other.label} takes {_input(other.bundle)}: their "
                "latencies are of different work; to measure each by itself, run: edgemim bench"
            )
    if latency_only or same_images(entries):
        return
    carrying = [entry for entry in entries if entry.bundle.evaluation is not None]
    for other in carrying[1:]:
        if _images(other.bundle) != _images(carrying[0].bundle):
            raise ConfigError(
                f"the bundles of {carrying[0].label} and {other.label} carry different evaluation images, whose "
                "accuracies cannot be compared; compare without them: --latency-only"
            )


def same_images(entries: Sequence[Entry]) -> bool:
    """Whether all bundles carry evaluation images, and the same ones with the same labels."""
    found = {_images(entry.bundle) for entry in entries}
    return len(found) == 1 and None not in found


def _input(bundle: Bundle) -> str:
    height, width = bundle.preprocess.size
    return f"{bundle.batch} x {height} x {width} {bundle.encoding}"


def _images(bundle: Bundle) -> str | None:
    images = bundle.evaluation
    return None if images is None else bundle.artifact.files[images.path.name].sha256
