"""Folders with one subfolder per class."""

import pytest

from edgemim.data.open import open_images, open_splits
from edgemim.errors import DataError


@pytest.fixture
def pets(fill, tmp_path):
    folder = tmp_path / "pets"
    fill(folder / "train" / "dog", 3)
    fill(folder / "train" / "cat" / "black", 2, seed=10)
    fill(folder / "train" / "emu", 1, seed=20)
    fill(folder / "val" / "dog", 2, seed=30)
    fill(folder / "test" / "emu", 1, seed=40)
    return folder


def test_classes_are_sorted_and_images_follow_them(pets):
    images = open_images(str(pets))
    assert images.class_names == ("cat", "dog", "emu")
    assert images.labels.tolist() == [0, 0, 1, 1, 1, 2]
    assert "cat/black/000.png" in images.describe(0)


def test_other_splits_use_the_classes_of_train(pets):
    assert open_images(str(pets), split="val").labels.tolist() == [1, 1]
    splits = open_splits(str(pets))
    assert splits.test_split == "test"
    assert splits.test.labels.tolist() == [2]
    assert splits.test.class_names == splits.train.class_names


def test_classes_without_splits_are_all_for_training(fill, tmp_path):
    fill(tmp_path / "cat", 10)
    fill(tmp_path / "dog", 10, seed=10)
    splits = open_splits(str(tmp_path), holdout=0.2)
    assert (len(splits.train), splits.test_split) == (16, "held out")
    assert sorted(splits.test.labels.tolist()) == [0, 0, 1, 1]


def test_one_class_is_taken_where_it_is_asked_for(fill, tmp_path):
    fill(tmp_path / "cat", 2)
    assert open_images(f"imagefolder:{tmp_path}").class_names == ("cat",)


def test_the_folder_name_is_part_of_the_fingerprint(fill, tmp_path):
    fill(tmp_path / "cat", 2)
    fill(tmp_path / "dog", 2)
    before = open_images(str(tmp_path)).fingerprint
    (tmp_path / "dog").rename(tmp_path / "fox")
    assert open_images(str(tmp_path)).fingerprint != before


def test_the_archive_that_the_classes_came_in_changes_nothing(pets):
    (pets / "pets.tar").write_bytes(b"")
    assert open_images(str(pets)).class_names == ("cat", "dog", "emu")


def test_a_class_that_train_lacks_is_named(pets, fill):
    fill(pets / "val" / "yak", 1)
    with pytest.raises(DataError, match="has the class 'yak', the training images have not"):
        open_images(str(pets), split="val")


def test_an_empty_class_is_named(pets):
    (pets / "train" / "gnu").mkdir()
    with pytest.raises(DataError, match=r"class folder 'gnu' of .* has no images"):
        open_images(str(pets))


def test_images_beside_the_classes_are_refused(pets, fill):
    fill(pets / "train", 1)
    with pytest.raises(DataError, match="has images beside its class folders"):
        open_images(f"imagefolder:{pets / 'train'}")


def test_a_file_that_is_no_image_is_named(pets):
    (pets / "train" / "cat" / "z.png").write_text("not an image")
    with pytest.raises(DataError, match=r"cat/z\.png is not an image that can be read"):
        open_images(str(pets)).image(2)
