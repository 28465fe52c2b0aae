"""Statistics of a model's activations, and the file they are kept in."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemim.artifact import write_bytes, writing
from edgemim.errors import ArtifactError
from edgemim.quantize.statistics.observed import Observed

_SCHEMA = 1
Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Statistics(Mapping[str, Observed]):
    """What was observed of each tensor, by its key, in the order in which the tensors were asked for.

    Attributes:
        observed: By key.
        setup: What the values follow from beside the images: hash of the model, tensors, preprocessing, versions.
        images: sha256 (hex) of the bytes of every image that was seen, in order.
        notes: What the user should know of how they came about; not part of the file.
    """

    observed: Mapping[str, Observed]
    setup: Mapping[str, Any]
    images: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __getitem__(self, key: str) -> Observed:
        return self.observed[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.observed)

    def __len__(self) -> int:
        return len(self.observed)

    def save(self, path: Path) -> None:
        """Write them as one .npz; equal statistics give equal bytes, and a kill leaves the old file or the new one.

        Raises:
            OutputError: The file cannot be written.
        """
        stream = io.BytesIO()
        np.savez(stream, allow_pickle=False, **_pack(self))
        with writing(path, instead="choose another place for the statistics"):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, stream.getvalue())


def load_statistics(path: Path) -> Statistics:
    """Read what `Statistics.save` wrote.

    Raises:
        ArtifactError: The file is missing, damaged, or something else.
    """
    try:
        # NumPy leaves a file open that it opened itself and cannot read.
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            return _unpack({name: file[name] for name in file.files})
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} does not exist") from error
    except (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{path} holds no statistics that can be read: {error}; remove it") from error


def _pack(statistics: Statistics) -> dict[str, npt.NDArray[Any]]:
    """All tensors end to end; of the histograms only the bins that are filled."""
    observed = list(statistics.values())
    axes = [entry.channel_axis for entry in observed]
    about = {
        "schema_version": _SCHEMA,
        "keys": list(statistics),
        "channel_axes": axes,
        "setup": statistics.setup,
        "images": list(statistics.images),
    }
    filled = [np.flatnonzero([] if entry.counts is None else entry.counts) for entry in observed]
    counts = [bins if o.counts is None else o.counts[bins] for bins, o in zip(filled, observed, strict=True)]
    channels = [_or_empty(entry.channel_maximum) for entry in observed]
    return {
        "about": np.frombuffer(json.dumps(about, sort_keys=True).encode(), dtype=np.uint8),
        "elements": np.array([entry.elements for entry in observed], dtype=np.int64),
        "maximum": np.array([entry.maximum for entry in observed], dtype=np.float32),
        "negative": np.array([entry.negative for entry in observed], dtype=np.bool_),
        "histogram": np.array([entry.counts is not None for entry in observed], dtype=np.bool_),
        "filled": np.array([len(bins) for bins in filled], dtype=np.int64),
        "bins": _end_to_end(filled, np.uint16),
        "counts": _end_to_end(counts, np.int64),
        "channels": np.array([len(values) for values in channels], dtype=np.int64),
        "channel_maximum": _end_to_end(channels, np.float32),
    }


def _unpack(arrays: Arrays) -> Statistics:
    about = json.loads(arrays["about"].tobytes())
    if about["schema_version"] != _SCHEMA:
        raise ValueError(f"schema version {about['schema_version']!r}, this edgemim reads {_SCHEMA}")
    bins, counts = (np.split(arrays[name], np.cumsum(arrays["filled"])[:-1]) for name in ("bins", "counts"))
    channels = np.split(arrays["channel_maximum"], np.cumsum(arrays["channels"])[:-1])
    observed = {}
    for i, key in enumerate(about["keys"]):
        axis = about["channel_axes"][i]
        entry = Observed.empty(histogram=bool(arrays["histogram"][i]), channel_axis=axis)
        entry.elements = int(arrays["elements"][i])
        entry.maximum = float(arrays["maximum"][i])
        entry.negative = bool(arrays["negative"][i])
        if entry.counts is not None:
            entry.counts[bins[i]] = counts[i]
        if len(channels[i]):
            entry.channel_maximum = channels[i]
        observed[str(key)] = entry
    return Statistics(observed=observed, setup=about["setup"], images=tuple(about["images"]))


def _or_empty(values: npt.NDArray[np.float32] | None) -> npt.NDArray[np.float32]:
    return np.zeros(0, dtype=np.float32) if values is None else values


def _end_to_end(parts: Sequence[npt.NDArray[Any]], dtype: type[np.generic]) -> npt.NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype=dtype), *parts]).astype(dtype)
