"""What the images of a gallery say of an image: its k-nearest-neighbour answer.

Source: Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018,
    arXiv:1805.01978, section 3.4 (cosine similarity, votes weighted by exp(similarity / 0.07)).
Differs: k is 20, as later work has it. A gallery without labels has every image as a class of its own, so that its
    answer is the nearest image.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

NEIGHBOURS = 20
_TEMPERATURE = 0.07
# Rows of the similarities that are held at a time.
_BLOCK = 1024


def nearest_answers(outputs: Floats, gallery: Floats, labels: Ints | None) -> Ints:
    """The answer of the gallery for each image.

    Args:
        outputs: [N, K], of the images.
        gallery: [M, K], of the gallery's images, by the same model.
        labels: int64 [M], classes of the gallery's images, 0 or more; None: there are none.

    Returns:
        int64 [N]: class numbers, or without labels positions in the gallery.
    """
    references = _unit(gallery)
    blocks = [
        _answers(_unit(outputs[start : start + _BLOCK]) @ references.T, labels)
        for start in range(0, len(outputs), _BLOCK)
    ]
    return np.concatenate(blocks)


def _answers(similarity: npt.NDArray[np.float64], labels: Ints | None) -> Ints:
    if labels is None:
        return np.asarray(similarity.argmax(axis=1), dtype=np.int64)
    # Stable, so that of equally near images the first ones count.
    neighbours = np.argsort(-similarity, axis=1, kind="stable")[:, :NEIGHBOURS]
    weights = np.exp(np.take_along_axis(similarity, neighbours, axis=1) / _TEMPERATURE)
    votes = np.zeros((len(similarity), int(labels.max()) + 1))
    np.add.at(votes, (np.arange(len(similarity))[:, None], labels[neighbours]), weights)
    return np.asarray(votes.argmax(axis=1), dtype=np.int64)


def _unit(vectors: Floats) -> npt.NDArray[np.float64]:
    doubles = vectors.astype(np.float64)
    lengths = np.linalg.norm(doubles, axis=1, keepdims=True)
    unit: npt.NDArray[np.float64] = np.divide(doubles, lengths, out=np.zeros_like(doubles), where=lengths > 0)
    return unit
