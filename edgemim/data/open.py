"""From what the user wrote after `--data` to images.

A spec is `digits`, a folder, parquet files, webdataset shards, or `owner/name` on the Hugging Face Hub.
A source's name in front decides where the spec alone does not: `folder:PATH`, `hub:owner/name`.
Shards behind `stream:` or a URL are read where they lie instead, by `edgemim.data.streams`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgemim.data.images import Images
from edgemim.data.sources import SOURCES
from edgemim.data.sources._base import Source, SplitOpeners
from edgemim.data.stratify import holdout_indices
from edgemim.errors import DataError
from edgemim.registry import did_you_mean

STREAM = "stream:"
_CHOICES = "; give a folder, .parquet or .tar files, digits, or hub:owner/name"
_SYNONYMS = {"val": "validation", "valid": "validation"}


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Images to train on and images to test on, without one in common.

    Attributes:
        train: The training images.
        test: The test images; their classes are those of `train`.
        test_split: Where `test` comes from: `test`, `validation`, or `held out`.
    """

    train: Images
    test: Images
    test_split: str


def open_images(spec: str, *, split: str = "train") -> Images:
    """Open one split of a data set.

    A set with a single split has no other choice, so `train`, the default, then means that one.

    Raises:
        DataError: No source reads `spec`, it has no such split, or what it names is missing or empty.
        MissingDependencyError: The source needs a package that is not installed.
    """
    found = _splits(spec)
    wanted = _SYNONYMS.get(split, split)
    if wanted == "train" and len(found) == 1:
        wanted = next(iter(found))
    if wanted not in found:
        raise DataError(f"{spec} has no split {split!r}{did_you_mean(wanted, found)}")
    return found[wanted]()


def open_splits(spec: str, *, holdout: float = 0.1, seed: int = 0) -> Splits:
    """Open the training images and the test images of a data set.

    The test images are the split `test` if there is one, else `validation`, else a share of the training
    images, held out by class where there are labels.

    Args:
        spec: See the module.
        holdout: Share of images to hold out where no split is for testing, in (0, 1).
        seed: Which images are held out.

    Raises:
        ConfigError: `holdout` is out of range.
        DataError: As `open_images`; or there are too few images to hold some out.
    """
    found = _splits(spec)
    test = next((name for name in ("test", "validation") if name in found), None)
    if len(found) > 1 and test is not None:
        if "train" not in found:
            raise DataError(f"{spec} has no split 'train'; it has {', '.join(sorted(found))}")
        splits = Splits(train=found["train"](), test=found[test](), test_split=test)
        if splits.train.class_names != splits.test.class_names:
            raise DataError(f"the splits train and {test} of {spec} have different classes; write them alike")
        return splits
    images = open_images(spec)
    train_rows, test_rows = holdout_indices(images.labels, count=len(images), share=holdout, seed=seed)
    return Splits(train=images.select(train_rows), test=images.select(test_rows), test_split="held out")


def is_stream(spec: str) -> bool:
    """Whether a spec names shards to be read where they lie; see `edgemim.data.streams`."""
    return spec.startswith(STREAM) or "://" in spec


def _splits(spec: str) -> SplitOpeners:
    if not spec.strip():
        raise DataError(f"no data set is given{_CHOICES}")
    if is_stream(spec):
        raise DataError(f"{spec} is a stream, which only pretrain and distill read{_CHOICES}")
    prefix, colon, rest = spec.partition(":")
    try:
        if colon and prefix in SOURCES.names():
            return _source(prefix).splits(rest)
        for name in SOURCES:
            source = _source(name)
            if source.matches(spec):
                return source.splits(spec)
    except OSError as error:
        raise DataError(f"{error.filename or spec} cannot be read: {error.strerror}") from error
    raise DataError(_unmatched(spec))


def _source(name: str) -> Source:
    source: Source = SOURCES.get(name)()
    return source


def _unmatched(spec: str) -> str:
    path = Path(spec).expanduser()
    if path.is_dir():
        return f"folder {spec} has no images, parquet files or tar shards"
    if path.exists():
        return f"{spec} is not a data set: give a folder, a .parquet or a .tar file"
    prefix, colon, _ = spec.partition(":")
    if colon:
        return f"data set {spec} does not exist, and {prefix!r} is no source{did_you_mean(prefix, SOURCES)}"
    near = did_you_mean(spec, ["digits"])
    if "did you mean" not in near:
        near = _CHOICES
    return f"data set {spec} does not exist{near}"
