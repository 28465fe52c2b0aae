"""Images of a training set that cannot be read: skipped up to a limit, each named once.

    images = Readable(source, Unreadable(name="photos", images=len(source), share=0.001))
    images.unreadable.keep_in(run)       # from now on in run/unreadable.txt, for every process and every resume
    index, pixels = images.read(17)      # image 17, or the next one that can be read

The place of an unreadable image is taken by the next readable one in the order of the set, with that one's index,
label and crop. So what a place shows depends on the images alone: not on the process that reads it, nor on where a run
was resumed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from edgemim.artifact import writing
from edgemim.errors import DataError
from edgemim.preprocess import Pixels

FILE = "unreadable.txt"
_NAMED = 3


class UnreadableImageError(DataError):
    """One image cannot be decoded; a training run can go on without it.

    Args:
        name: Of the image: its file, or its row and its set.
        message: What is wrong with it; names it too.
    """

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name
        self.message = message

    def __reduce__(self) -> tuple[type[UnreadableImageError], tuple[str, str]]:
        """Rebuild from the arguments: a worker process hands its errors over pickled."""
        return type(self), (self.name, self.message)


class Source(Protocol):
    """Images by index, some of which may be unreadable."""

    def __len__(self) -> int: ...

    def get(self, i: int) -> Pixels:
        """Image `i`, uint8 [H, W, 3].

        Raises:
            UnreadableImageError: This image cannot be decoded. Any other error ends the run.
        """


class Unreadable:
    """Which images of a set could not be read, and how many may be.

    The processes of a run, and those that resume it, share what they find through a file in its folder.

    Args:
        name: Of the set, for messages.
        images: Size of the set.
        share: Of the images that may be unreadable, in [0, 1); the number is rounded down.
    """

    def __init__(self, *, name: str, images: int, share: float) -> None:
        self.name = name
        self.images = images
        self.share = share
        self.limit = int(share * images)
        self._found: dict[int, UnreadableImageError] = {}
        self._file: Path | None = None

    def __len__(self) -> int:
        return len(self._found)

    def __contains__(self, index: int) -> bool:
        return index in self._found

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._found))

    def add(self, index: int, error: UnreadableImageError) -> None:
        """Remember that image `index` cannot be read.

        Raises:
            DataError: More images than the limit cannot be read; names the first few.
            OutputError: The file cannot be written.
        """
        if index in self._found:
            return
        self._found[index] = error
        if self._file is not None:
            _append(self._file, {index: error})
            self._found |= _read(self._file)
        self._refuse_too_many()

    def keep_in(self, run: Path) -> None:
        """Share what is found with every process that keeps it in the same folder, and with those that resume the run.

        Raises:
            DataError: What they have found together is over the limit.
            OutputError: The file cannot be written.
        """
        self._file = run / FILE
        before = _read(self._file)
        new = {index: error for index, error in self._found.items() if index not in before}
        if new:
            _append(self._file, new)
        self._found |= before
        self._refuse_too_many()

    def summary(self) -> str | None:
        """One line on what all processes have skipped; None where nothing was."""
        if self._file is not None:
            self._found |= _read(self._file)
        if not self._found:
            return None
        where = f"; all are named in {self._file}" if self._file is not None else ""
        return f"skipped {len(self)} of {self.images} images, which cannot be read: {self._names()}{where}"

    def _names(self) -> str:
        names = [self._found[index].name for index in sorted(self._found)[:_NAMED]]
        return ", ".join(names) + (", ..." if len(self) > _NAMED else "")

    def _refuse_too_many(self) -> None:
        if len(self) <= self.limit:
            return
        if not self.limit:
            first = self._found[min(self._found)]
            raise DataError(f"{first} (training.max_unreadable {self.share:g} of {self.images} images is none)")
        raise DataError(
            f"{len(self)} of the {self.images} images of {self.name} cannot be read, training.max_unreadable "
            f"{self.share:g} allows {self.limit}: {self._names()}; remove or replace them, or allow more"
        )


class Readable:
    """A set in which the next readable image takes the place of one that cannot be read.

    Args:
        source: The images.
        unreadable: Remembers those that cannot be read.
    """

    def __init__(self, source: Source, unreadable: Unreadable) -> None:
        self.source = source
        self.unreadable = unreadable

    def __len__(self) -> int:
        return len(self.source)

    def get(self, i: int) -> Pixels:
        """The pixels of `read(i)`."""
        return self.read(i)[1]

    def read(self, i: int) -> tuple[int, Pixels]:
        """The first readable image from `i` on, after the last one the first, with its index.

        Raises:
            DataError: Too many images cannot be read.
        """
        while True:  # ends: the limit is less than the number of images
            i = self.index(i)
            try:
                return i, self.source.get(i)
            except UnreadableImageError as error:
                self.unreadable.add(i, error)

    def index(self, i: int) -> int:
        """The first index from `i` on whose image is not known to be unreadable."""
        while i in self.unreadable:
            i = (i + 1) % len(self)
        return i

    def indices(self, wanted: Sequence[int]) -> list[int]:
        """`index` of each."""
        return [self.index(i) for i in wanted] if len(self.unreadable) else list(wanted)


def _append(file: Path, found: Mapping[int, UnreadableImageError]) -> None:
    # One write to a file opened for appending: lines of several processes do not mix, and a kill leaves whole ones.
    lines = "".join(f"{index}\t{_line(error.name)}\t{_line(error.message)}\n" for index, error in found.items())
    with writing(file):
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, lines.encode())
        finally:
            os.close(descriptor)


def _read(file: Path) -> dict[int, UnreadableImageError]:
    """What a file holds; two processes may both have named an image."""
    if not file.is_file():
        return {}
    found = {}
    for line in file.read_text("utf-8", errors="replace").splitlines():
        index, _, rest = line.partition("\t")
        name, tab, message = rest.partition("\t")
        if tab and index.isdecimal():
            found[int(index)] = UnreadableImageError(name, message)
    return found


def _line(text: str) -> str:
    return " ".join(text.split())
