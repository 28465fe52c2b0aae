"""An opened candidate: images in, outputs out."""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import numpy.typing as npt

from edgemim.errors import ConfigError, DeviceError
from edgemim.runtime.accuracy.cosine import Floats
from edgemim.runtime.accuracy.golden import compare_golden
from edgemim.runtime.backends._base import Arrays, Session
from edgemim.runtime.bundle import Bundle
from edgemim.runtime.predict.choice import Choice
from edgemim.runtime.predict.images import Sources, each, to_pixels


@dataclass(frozen=True, kw_only=True)
class Label:
    """One class of an answer.

    Attributes:
        index: Its number, 0 to K - 1.
        name: What the bundle calls it; its number where it has no names.
        score: Softmax over all classes, 0 to 1.
    """

    index: int
    name: str
    score: float


class Model:
    """A candidate that is ready to run; made by `load`.

    Several threads may call it at once: each prepares its images by itself, and the engine runs one of them at a time
    under a lock. A `with` block, or `close`, frees the engine.
    """

    def __init__(self, choice: Choice, session: Session) -> None:
        """Keep an open session; the model closes it."""
        self._choice, self._session = choice, session
        self._lock, self._closed = threading.Lock(), False

    @property
    def bundle(self) -> Bundle:
        """What it was loaded from."""
        return self._choice.bundle

    @property
    def candidate(self) -> str:
        """Name of the candidate, such as `int8-linear`."""
        return self._choice.pair.candidate.name

    @property
    def backend(self) -> str:
        """Name of the backend, such as `openvino`."""
        return self._choice.pair.backend.name

    @property
    def threads(self) -> int:
        """Threads of one inference, where the backend has such a setting."""
        return self._choice.threads

    @property
    def chosen_by(self) -> str:
        """Who chose the candidate, in words."""
        return self._choice.by

    @property
    def classifies(self) -> bool:
        """Whether the outputs are scores of classes, and `predict` means something."""
        return self.bundle.classifies

    def __repr__(self) -> str:
        return f"<{self.candidate} on {self.backend} of {self.bundle.artifact.path}, {self.chosen_by}>"

    def __call__(self, images: Sources) -> Floats:
        """Run the model.

        Args:
            images: One image or any number of them, each of any size: arrays uint8 [H, W, 3] in RGB, an array uint8
                [N, H, W, 3], Pillow images, paths of files, or their bytes. They are resized, cropped and normalised
                here, by the contract of the bundle.

        Returns:
            float32 [N, K], logits or an embedding each; N is 1 for one image.

        Raises:
            DataError: Not an image, or one that cannot be read; nothing is returned of the others.
            DeviceError: The vendor library failed.
            ValueError: The model was closed.
        """
        bundle, sources = self.bundle, each(images)
        rows = [np.zeros((0, bundle.golden.outputs.shape[1]), np.float32)]
        while part := list(itertools.islice(sources, bundle.batch)):
            inputs = bundle.arrays(np.stack([to_pixels(source, bundle.preprocess) for source in part]))
            rows.append(self._run(inputs)[: len(part)])
        return np.concatenate(rows)

    def predict(self, images: Sources, *, top: int = 5) -> list[tuple[Label, ...]]:
        """The likeliest classes of each image, the best first.

        Args:
            images: As of a call.
            top: How many; all where there are fewer.

        Raises:
            ConfigError: The model has no classes.
            DataError, DeviceError, ValueError: As of a call.
        """
        if not self.classifies:
            raise ConfigError(f"{self.bundle.artifact.path} has no classes, it embeds images; call the model instead")
        return [self.labels(row, top=top) for row in self(images)]

    def labels(self, logits: npt.NDArray[np.floating], *, top: int = 5) -> tuple[Label, ...]:
        """The likeliest classes by one row [K] of a call, the best first."""
        scores = np.exp(logits.astype(np.float64) - logits.max())
        scores /= scores.sum()
        names = self.bundle.class_names
        best = np.argsort(-scores, kind="stable")[:top]
        return tuple(
            Label(index=int(i), name=str(i) if names is None else names[i], score=float(scores[i])) for i in best
        )

    def check_golden(self) -> None:
        """Run the golden inputs of the bundle and compare, by the rule of the candidate's precision.

        Raises:
            DeviceError: The engine computes something else than the model in the bundle.
        """
        golden, candidate = self.bundle.golden, self._choice.pair.candidate
        rows = [self._run(inputs)[:count] for inputs, count in self.bundle.golden_batches()]
        reason = compare_golden(np.concatenate(rows), golden.outputs, candidate.precision).reason
        if reason is not None:
            raise DeviceError(f"{self.candidate} on {self.backend} cannot be used: {reason}; run: edgemim check")

    def close(self) -> None:
        """Free the engine; a second call does nothing. Waits for a run that another thread is in."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._session.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, inputs: Arrays) -> Floats:
        name = self.bundle.output_name
        with self._lock:
            if self._closed:
                raise ValueError("the model was closed; load it again")
            outputs = self._session.run(inputs)
        if name not in outputs:
            raise DeviceError(f"{self.candidate} on {self.backend} returned {sorted(outputs)}, not {name!r}")
        return outputs[name].astype(np.float32, copy=False)
