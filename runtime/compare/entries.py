"""What a user wants compared, from words to candidates: bundles, candidates of bundles, reports.

BUNDLE                         what a check on this device chose, or was chosen when the bundle was made
BUNDLE:CANDIDATE               one candidate, on the first backend that can run it
BUNDLE:CANDIDATE@BACKEND       the same on that backend
REPORT                         what a check chose, of the bundle that it was about
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgemim.errors import ArtifactError, ConfigError
from edgemim.runtime.bundle import Bundle
from edgemim.runtime.device import Device
from edgemim.runtime.predict.choice import Choice, find_choice

_FORMS = "give BUNDLE, BUNDLE:CANDIDATE, BUNDLE:CANDIDATE@BACKEND or a report"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One of those that are compared.

    Attributes:
        label: Unlike that of every other, `fp32 on openvino` or `tiny: fp32 on openvino`.
    """

    label: str
    choice: Choice

    @property
    def bundle(self) -> Bundle:
        """What it was chosen from."""
        return self.choice.bundle


def find_entries(given: Sequence[Path | str | Choice], device: Device, *, threads: int | None = None) -> list[Entry]:
    """The entries in the order given, two or more.

    Args:
        given: In the forms of the module; or candidates that were found already.
        device: This machine.
        threads: Of one inference.

    Raises:
        ArtifactError: A folder is missing, altered or something else.
        ConfigError: Fewer than two, an unknown name, a candidate that cannot run here, or a bundle that does not say
            which candidate is meant.
        MissingDependencyError, DeviceError: As of `find_choice`.
    """
    if len(given) < 2:
        raise ConfigError(f"comparing takes two or more; got {len(given)}; {_FORMS}")
    choices = [one if isinstance(one, Choice) else _find(str(one), device, threads) for one in given]
    return [Entry(label=name, choice=choice) for name, choice in zip(_labels(choices), choices, strict=True)]


def folder_of(text: str) -> Path:
    """The folder that an entry names.

    Raises:
        ArtifactError: There is none.
        ConfigError: The candidate or the backend is an empty word.
    """
    return _split(text)[0]


def _find(text: str, device: Device, threads: int | None) -> Choice:
    path, candidate, backend = _split(text)
    return find_choice(path, device, candidate=candidate, backend=backend, threads=threads)


def _split(text: str) -> tuple[Path, str | None, str | None]:
    """Path, candidate and backend; a path may hold colons itself, so what exists decides."""
    if Path(text).exists():
        return Path(text), None, None
    head, colon, tail = text.rpartition(":")
    if not colon or not head or not Path(head).exists():
        missing = f"{text} does not exist" if not colon or not head else f"neither {text} nor {head} exists"
        raise ArtifactError(f"{missing}; {_FORMS}")
    candidate, at, backend = tail.partition("@")
    if not candidate or (at and not backend):
        raise ConfigError(f"{text} names no {'backend' if candidate else 'candidate'}; {_FORMS}")
    return Path(head), candidate, backend or None


def _labels(choices: Sequence[Choice]) -> list[str]:
    """What each is called: as briefly as tells them apart, numbered where nothing else does."""
    pairs = [f"{c.pair.candidate.name} on {c.pair.backend.name}" for c in choices]
    folders = [c.bundle.artifact.path for c in choices]
    if len(set(folders)) > 1:
        names = [os.path.basename(os.path.abspath(folder)) for folder in folders]
        alike = len(set(names)) < len(set(folders))
        pairs = [
            f"{folder if alike else name}: {pair}" for folder, name, pair in zip(folders, names, pairs, strict=True)
        ]
    counts, seen, labels = Counter(pairs), Counter[str](), []
    for pair in pairs:
        seen[pair] += 1
        labels.append(pair if counts[pair] == 1 else f"{pair} #{seen[pair]}")
    return labels
