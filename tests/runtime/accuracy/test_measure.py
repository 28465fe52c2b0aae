"""`edgemim.runtime.accuracy`: worked examples, then the rules of disqualification."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgemim.runtime.accuracy.cosine import cosines, mean_of_worst
from edgemim.runtime.accuracy.golden import compare_golden, compare_same_file
from edgemim.runtime.accuracy.measure import Flips, measure_accuracy


def rows(*values: list[float]) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_worked_example_with_labels_and_reference() -> None:
    # Classes ours 0 1 1 0, of the reference 0 1 0 1, right 0 1 0 0.
    ours = rows([2, 1], [0, 3], [0, 1], [5, 1])
    reference = rows([2, 1], [0, 3], [1, 0], [1, 5])
    labels = np.array([0, 1, 0, 0])
    found = measure_accuracy(ours, labels=labels, reference=reference, classifies=True)
    assert found.top1 == 0.75
    assert found.agreement == 0.5
    # Reference is right on 0 1 2: 3/4 as well; per image it gains 0 0 1 -1.
    assert found.top1_drop == 0.0
    assert found.top1_se == pytest.approx(np.sqrt(0.75 * 0.25 / 4))
    assert found.top1_drop_se == pytest.approx(np.sqrt(0.5) / 2)
    # Cosines 1, 1, 0 and (5 + 5) / 26.
    assert found.cosine == pytest.approx((1 + 1 + 0 + 10 / 26) / 4)
    assert found.cosine_worst == found.cosine_worst_1pct == 0.0
    # The reference alone is right on image 2, the candidate alone on image 3.
    assert found.flips == Flips(to_wrong=1, to_right=1, other=0)
    assert found.mcnemar_p == 1.0
    assert found.per_class == [
        {"class": 0, "n": 3, "top1": pytest.approx(2 / 3), "reference_top1": pytest.approx(2 / 3)},
        {"class": 1, "n": 1, "top1": 1.0, "reference_top1": 1.0},
    ]


def test_the_drop_has_an_interval_and_says_whether_the_images_are_enough() -> None:
    labels = np.zeros(400, dtype=np.int64)
    reference = np.tile(np.float32([1, 0, 0]), (400, 1))
    ours = reference.copy()
    ours[:20] = [0, 1, 0]
    found = measure_accuracy(ours, labels=labels, reference=reference, classifies=True)
    assert found.flips == Flips(to_wrong=20, to_right=0, other=0)
    assert found.top1_drop == pytest.approx(0.05)
    assert found.top1_drop_low is not None
    assert found.top1_drop_high is not None
    assert 0.02 < found.top1_drop_low < 0.05 < found.top1_drop_high < 0.08
    assert found.resolution == pytest.approx((found.top1_drop_high - found.top1_drop_low) / 2)
    assert found.enough is False
    assert found.mcnemar_p == pytest.approx(2 * 0.5**20)


def test_another_wrong_answer_is_a_flip_that_is_no_drop() -> None:
    ours, reference = rows([0, 0, 1], [1, 0, 0]), rows([0, 1, 0], [1, 0, 0])
    found = measure_accuracy(ours, labels=np.array([0, 0]), reference=reference, classifies=True)
    assert found.flips == Flips(to_wrong=0, to_right=0, other=1)
    assert found.top1_drop == 0


def test_of_the_reference_itself_nothing_is_estimated() -> None:
    ours = rows([2, 1], [0, 3])
    found = measure_accuracy(ours, labels=np.array([0, 0]), reference=ours, classifies=True)
    assert (found.top1_drop, found.flips) == (0.0, Flips(to_wrong=0, to_right=0, other=0))
    assert found.top1_drop_low is found.top1_drop_high is found.resolution is found.enough is found.mcnemar_p is None


def test_top5_is_given_where_there_are_more_than_five_classes() -> None:
    # The right class comes sixth with ours, first with the reference; then first with both.
    ours = rows([1, 2, 3, 4, 5, 6], [9, 0, 0, 0, 0, 0])
    reference = rows([9, 2, 3, 4, 5, 6], [9, 0, 0, 0, 0, 0])
    labels = np.array([0, 0])
    found = measure_accuracy(ours, labels=labels, reference=reference, classifies=True)
    assert (found.top5, found.top5_drop) == (0.5, 0.5)
    assert measure_accuracy(ours, labels=labels, reference=None, classifies=True).top5_drop is None
    few = measure_accuracy(ours[:, :5], labels=labels, reference=reference[:, :5], classifies=True)
    assert (few.top5, few.top5_drop) == (None, None)


def test_the_worst_percent_is_rounded_up_to_whole_images() -> None:
    similar = np.linspace(0, 1, 101)
    assert mean_of_worst(similar) == pytest.approx(0.005)  # of 0 and 0.01
    assert mean_of_worst(similar[:3]) == 0.0


def test_the_report_gets_plain_values() -> None:
    ours = rows([2, 1], [0, 3], [1, 0], [5, 4])
    found = measure_accuracy(ours + 1, labels=np.zeros(4, dtype=int), reference=ours, classifies=True).to_dict()
    assert json.loads(json.dumps(found)) == found
    assert found["flips"] == {"to_wrong": 0, "to_right": 0, "other": 0}
    assert found["cka"] == pytest.approx(1)


def test_without_labels_there_is_agreement_but_no_top1() -> None:
    ours = rows([2, 1], [0, 3])
    found = measure_accuracy(ours, labels=None, reference=ours, classifies=True)
    assert (found.top1, found.top1_drop, found.agreement, found.cosine) == (None, None, 1.0, 1.0)
    assert found.flips is found.mcnemar_p is found.enough is found.per_class is found.top5 is None


def test_an_embedding_has_a_cosine_only() -> None:
    ours = rows([2, 1], [0, 3], [1, 0], [5, 4])
    found = measure_accuracy(ours, labels=np.array([0, 1, 0, 0]), reference=ours, classifies=False)
    assert (found.top1, found.agreement, found.cosine, found.cka) == (None, None, 1.0, 1.0)


def test_without_a_reference_nothing_is_compared() -> None:
    found = measure_accuracy(rows([2, 1]), labels=np.array([0]), reference=None, classifies=True)
    assert (found.top1, found.top1_drop, found.agreement, found.cosine) == (1.0, None, None, None)
    assert found.flips is found.cka is found.top1_drop_low is None
    assert found.per_class == [{"class": 0, "n": 1, "top1": 1.0, "reference_top1": None}]


def test_cosine_of_zero_rows() -> None:
    assert cosines(rows([0, 0], [0, 0], [1, 1]), rows([0, 0], [1, 0], [-2, -2])).tolist() == pytest.approx([1, 0, -1])


def test_cosine_is_scipys() -> None:
    distance = pytest.importorskip("scipy.spatial.distance", reason="needs scipy")
    a, b = np.random.default_rng(0).normal(size=(2, 6, 9)).astype(np.float32)
    expected = [1 - distance.cosine(x.astype(float), y.astype(float)) for x, y in zip(a, b, strict=True)]
    assert cosines(a, b) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("off", "largest", "good"), [(9e-4, 1, True), (1.1e-3, 1, False), (9e-3, 10, True), (9e-4, 0.1, True)]
)
def test_fp32_may_differ_by_a_thousandth_of_the_largest_output(off: float, largest: float, good: bool) -> None:
    golden = rows([largest, 0.0])
    match = compare_golden(golden + np.float32([0, off]), golden, "fp32")
    assert (match.reason is None) == good
    assert match.max_abs == pytest.approx(off, rel=1e-3)


@pytest.mark.parametrize(("angle", "good"), [(0.4, True), (0.5, False)])
def test_int8_must_keep_a_cosine_of_0_9(angle: float, good: bool) -> None:
    # cos 0.4 = 0.921, cos 0.5 = 0.878
    match = compare_golden(rows([np.cos(angle), np.sin(angle)]), rows([1, 0]), "int8")
    assert (match.reason is None) == good
    assert match.cosine == pytest.approx(np.cos(angle))


@pytest.mark.parametrize(("angle", "good"), [(0.19, True), (0.21, False)])
def test_int8_must_keep_a_cosine_of_0_98_with_another_backend_on_the_same_file(angle: float, good: bool) -> None:
    # cos 0.19 = 0.982, cos 0.21 = 0.978
    match = compare_same_file(rows([np.cos(angle), np.sin(angle)]), rows([1, 0]), "int8")
    assert (match.reason is None) == good
    assert good or "with those of ONNX Runtime for the same file is 0.978, int8 needs 0.98" in (match.reason or "")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_outputs_that_are_not_finite_disqualify(precision: str, bad: float) -> None:
    match = compare_golden(rows([1, bad]), rows([1, 0]), precision)
    assert match.reason == "its outputs on the golden inputs are not finite"
    assert match.max_abs is None


def test_outputs_of_another_shape_disqualify() -> None:
    match = compare_golden(rows([1, 0, 0]), rows([1, 0]), "fp32")
    assert match.reason is not None
    assert "[1, 3]" in match.reason


def test_the_knn_agreement_is_the_share_of_equal_answers() -> None:
    ours = rows([2, 1], [0, 3], [1, 1], [4, 1])
    found = measure_accuracy(
        ours,
        labels=None,
        reference=ours,
        classifies=False,
        answers=np.array([3, 1, 0, 7]),
        reference_answers=np.array([3, 1, 2, 7]),
    )
    assert found.knn_agreement == 0.75


def test_without_a_gallery_there_is_no_knn_agreement() -> None:
    ours = rows([2, 1])
    assert measure_accuracy(ours, labels=None, reference=ours, classifies=False).knn_agreement is None
