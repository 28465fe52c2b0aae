"""The set of encoded images."""

import hashlib
import pickle

import datasets
import numpy as np
import pytest

from edgemim.data.images import Images
from edgemim.errors import DataError


@pytest.fixture
def images(encode):
    return _images([encode(i) for i in range(5)], labels=[0, 1, 0, 2, 1], class_names=["a", "b", "c"])


def _images(encoded, **settings):
    return Images(datasets.Dataset.from_dict({"image": encoded}), name="test set", **settings)


def test_bytes_come_back_as_they_were_and_decode_to_rgb(images, encode):
    assert len(images) == 5
    assert images.encoded(3) == encode(3)
    assert images.encoded_block(1, 4) == [encode(1), encode(2), encode(3)]
    assert (images.image(3).mode, images.image(3).size) == ("RGB", (8, 6))


def test_labels_are_int64_and_classes_are_named(images):
    assert images.labels.dtype == np.int64
    assert images.labels.tolist() == [0, 1, 0, 2, 1]
    assert (images.class_names, images.num_classes) == (("a", "b", "c"), 3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_every_mode_that_png_has_decodes_to_rgb(encode, mode):
    assert _images([encode(mode=mode)]).image(0).mode == "RGB"


def test_cmyk_jpeg_decodes_to_rgb(encode):
    assert _images([encode(mode="CMYK", kind="jpeg")]).image(0).mode == "RGB"


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        ("png", ".png"),
        ("jpeg", ".jpg"),
        ("webp", ".webp"),
        ("gif", ".gif"),
        ("bmp", ".bmp"),
        ("tiff", ".tif"),
    ],
)
def test_the_suffix_is_read_from_the_bytes(encode, kind, suffix):
    assert _images([encode(kind=kind)]).suffix(0) == suffix


def test_bytes_of_no_image_format_have_no_suffix():
    with pytest.raises(DataError, match="image 0 of test set starts like no image file"):
        _images([b"hello, world"]).suffix(0)


def test_a_selection_keeps_images_labels_and_their_names(images, encode):
    part = images.select(np.array([4, 0])).select([0])
    assert part.encoded(0) == encode(4)
    assert part.labels.tolist() == [1]
    assert part.describe(0) == "image 4 of test set"


@pytest.mark.parametrize("indices", [[5], [-1]])
def test_a_selection_outside_the_set_is_refused(images, indices):
    with pytest.raises(IndexError, match=r"\[0, 5\)"):
        images.select(indices)


def test_the_fingerprint_is_stable_and_independent_of_where_images_lie(images, encode, tmp_path):
    paths = []
    for i in range(5):
        (tmp_path / f"{i}.png").write_bytes(encode(i))
        paths.append(str(tmp_path / f"{i}.png"))
    files = _images(paths, labels=[0, 1, 0, 2, 1], class_names=["a", "b", "c"])
    assert images.fingerprint == files.fingerprint
    assert images.fingerprint == images.select(range(5)).fingerprint


def test_the_fingerprint_is_what_it_says(encode):
    # The heading, each image's sha256, the sha256 of "none" for no labels, and "null" for no class names.
    parts = [b"edgemim images 1\n", *(hashlib.sha256(encode(i)).digest() for i in range(2))]
    parts += [hashlib.sha256(b"none").digest(), b"null"]
    assert _images([encode(0), encode(1)]).fingerprint == hashlib.sha256(b"".join(parts)).hexdigest()


def test_the_fingerprint_changes_with_a_byte_a_label_a_name_and_the_order(encode):
    encoded = [encode(i) for i in range(3)]
    changed = [encoded[0][:-1] + bytes([encoded[0][-1] ^ 1]), *encoded[1:]]
    sets = [
        _images(encoded, labels=[0, 1, 0], class_names=["a", "b"]),
        _images(changed, labels=[0, 1, 0], class_names=["a", "b"]),
        _images(encoded, labels=[0, 1, 1], class_names=["a", "b"]),
        _images(encoded, labels=[0, 1, 0], class_names=["a", "c"]),
        _images(encoded[::-1], labels=[0, 1, 0], class_names=["a", "b"]),
        _images(encoded),
    ]
    assert len({s.fingerprint for s in sets}) == len(sets)


def test_a_pickled_set_reads_the_same(images):
    copy = pickle.loads(pickle.dumps(images.select([2, 3])))
    assert copy.fingerprint == images.select([2, 3]).fingerprint
    assert copy.encoded(1) == images.encoded(3)


def test_missing_labels_name_the_stage_and_the_cure(encode):
    unlabelled = _images([encode()])
    assert unlabelled.labels is None
    with pytest.raises(DataError, match="finetune needs labels, test set has none; give a folder with one"):
        unlabelled.require_labels("finetune")


def test_required_labels_are_returned(images):
    assert images.require_labels("finetune").tolist() == [0, 1, 0, 2, 1]


@pytest.mark.parametrize("labels", [[-1, -1], [None, None]])
def test_a_set_whose_labels_are_all_empty_is_unlabelled(encode, labels):
    assert _images([encode(0), encode(1)], labels=labels).labels is None


@pytest.mark.parametrize(
    ("label", "found"),
    [(None, "missing, must be 0 to 1"), (2, "2, must be 0 to 1"), (-7, "-7, must be 0 to 1")],
)
def test_a_label_out_of_range_is_named(encode, label, found):
    images = _images([encode(0), encode(1)], labels=[0, label], class_names=["a", "b"])
    with pytest.raises(DataError, match=f"image 1 of test set has a label out of range: {found}"):
        images.require_labels("finetune")


def test_without_class_names_the_largest_label_counts(encode):
    images = _images([encode(0), encode(1)], labels=[0, 6])
    assert (images.class_names, images.num_classes) == (None, 7)
    assert images.labels.tolist() == [0, 6]


def test_a_broken_image_is_named_by_row_and_by_path(encode, tmp_path):
    with pytest.raises(DataError, match="image 1 of test set is not an image that can be read"):
        _images([encode(), b"no image"]).image(1)
    (tmp_path / "cat.png").write_bytes(encode()[:60])
    with pytest.raises(DataError, match=r"cat\.png is not an image that can be read: .*; remove or replace"):
        _images([str(tmp_path / "cat.png")]).image(0)


def test_a_file_that_has_gone_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.png cannot be read: No such file"):
        _images([str(tmp_path / "gone.png")]).encoded(0)


def test_an_empty_row_is_named(encode):
    with pytest.raises(DataError, match="image 1 of test set is empty"):
        _images([encode(), None]).encoded(1)
