"""`edgemim.runtime.accuracy.flips`: which images are shown, their thumbnails, and the arrays that keep every answer."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgemim.runtime.accuracy.flips import MOST, answer_arrays, choose_flips, thumbnail, write_flips
from edgemim.runtime.bundle import load_bundle
from edgemim.runtime.candidates import Candidate
from edgemim.runtime.plan import Pair
from edgemim.runtime.trial import Trial


@pytest.fixture
def trial(world: SimpleNamespace) -> Any:
    def make(name: str, answers: list[int] | None, margins: list[float] | None = None, **options: Any) -> Trial:
        candidate = Candidate(name=name, precision=name[:4], file=f"{name}.onnx", opset=17, size_bytes=1)
        pair = Pair(candidate=candidate, backend=world.Fake(), timed=options.pop("timed", True))
        return Trial(
            pair=pair,
            answers=None if answers is None else np.array(answers),
            margins=np.array(margins if margins is not None else [0.0] * len(answers or []), dtype=np.float32),
            **options,
        )

    return make


def test_right_to_wrong_comes_first_then_wrong_to_right_then_another_wrong(trial: Any) -> None:
    labels = np.array([0, 0, 0, 0])
    reference = trial("fp32", [0, 1, 1, 0])
    candidate = trial("int8", [0, 2, 0, 1])
    assert choose_flips([candidate], reference, labels) == [3, 2, 1]


def test_of_these_the_most_exact_candidate_comes_first_then_the_one_that_flips_less(trial: Any) -> None:
    labels = np.zeros(6, dtype=np.int64)
    reference = trial("fp32", [0] * 6)
    half, few, many = (
        trial("fp16", [0, 0, 0, 0, 0, 1]),
        trial("int8-a", [0, 0, 1, 0, 0, 0]),
        trial("int8-b", [1, 1, 0, 0, 0, 0]),
    )
    assert choose_flips([many, few, half], reference, labels) == [5, 2, 0, 1]


def test_of_these_the_ones_on_which_the_reference_was_surest_then_in_order(trial: Any) -> None:
    reference = trial("fp32", [0] * 4, [0.5, 3.0, 0.5, 1.0])
    assert choose_flips([trial("int8", [1] * 4)], reference, np.zeros(4, dtype=np.int64)) == [1, 3, 0, 2]


def test_without_labels_all_flips_count_alike(trial: Any) -> None:
    assert choose_flips([trial("int8", [1, 0, 2])], trial("fp32", [0, 0, 0]), None) == [0, 2]


def test_no_more_than_can_be_looked_at(trial: Any) -> None:
    reference = trial("fp32", [0] * 100)
    assert choose_flips([trial("int8", [1] * 100)], reference, None) == list(range(MOST))


def test_a_row_and_a_thumbnail_for_each_flipped_image(world: SimpleNamespace, trial: Any, tmp_path: Path) -> None:
    bundle = load_bundle(world.bundle())
    assert bundle.evaluation is not None
    assert bundle.evaluation.labels is not None
    labels = bundle.evaluation.labels
    same = labels.tolist()
    flipped = [*same[:7], (same[7] + 1) % 5, *same[8:]]
    reference = trial("fp32", same, timed=False)
    shown = [trial("int8-a", flipped), trial("int8-b", same)]
    out = [trial("int8-c", flipped, disqualified="wrong"), trial("int8-d", flipped, timed=False)]
    assert write_flips(tmp_path, bundle, [reference, *shown, *out], reference) == [
        {
            "index": 7,
            "file": "flips/00007.jpg",
            "label": same[7],
            "reference": same[7],
            "answers": {"int8-a on fake": flipped[7], "int8-b on fake": same[7]},
        }
    ]
    with Image.open(tmp_path / "flips/00007.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (8, 8))
    assert [path.name for path in tmp_path.joinpath("flips").iterdir()] == ["00007.jpg"]


def test_nothing_is_written_where_there_is_nothing_to_show(world: SimpleNamespace, trial: Any, tmp_path: Path) -> None:
    bundle, bare = load_bundle(world.bundle()), load_bundle(world.bundle(name="bare", evaluation=None))
    reference, same, embedding = trial("fp32", [0] * 20), trial("int8", [0] * 20), trial("int8", None)
    for case in (
        (bundle, [reference, same], reference),
        (bundle, [same], None),
        (bundle, [reference, embedding], reference),
    ):
        assert write_flips(tmp_path, *case) == []
    assert write_flips(tmp_path, bare, [reference, same], reference) == []
    assert list(tmp_path.glob("flips*")) == []


def test_a_thumbnail_is_small_and_upright() -> None:
    image = Image.new("RGB", (400, 200), "white")
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    stream = io.BytesIO()
    image.save(stream, "JPEG", exif=exif)
    with Image.open(io.BytesIO(thumbnail(stream.getvalue()))) as small:
        assert (small.size, small.mode) == ((48, 96), "RGB")


def test_every_answer_and_the_labels_are_kept_for_the_samples(world: SimpleNamespace, trial: Any) -> None:
    bundle = load_bundle(world.bundle())
    assert bundle.evaluation is not None
    arrays = answer_arrays(bundle, [trial("fp32", [1] * 20, timed=False), trial("int8", None)])
    assert set(arrays) == {"fp32@fake.answer", "evaluation.label"}
    assert {str(array.dtype) for array in arrays.values()} == {"int32"}
    assert np.array_equal(arrays["evaluation.label"], bundle.evaluation.labels)
    assert answer_arrays(bundle, [trial("int8", None)]) == {}
