"""Folders of images without labels."""

import pytest

from edgemim.data.cache import decode_cached
from edgemim.data.open import open_images, open_splits
from edgemim.errors import DataError


def test_images_of_any_depth_are_sorted_by_path(fill, tmp_path):
    fill(tmp_path / "b" / "deep", 2)
    fill(tmp_path, 1)
    images = open_images(str(tmp_path))
    names = [images.describe(i).removeprefix(f"{tmp_path}/") for i in range(len(images))]
    assert names == ["000.png", "b/deep/000.png", "b/deep/001.png"]
    assert images.labels is None
    assert images.class_names is None


def test_other_and_hidden_files_are_left_out(fill, encode, tmp_path):
    fill(tmp_path, 2)
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "._000.png").write_text("a Mac's resource fork")
    fill(tmp_path / ".thumbnails", 3)
    (tmp_path / "UPPER.JPG").write_bytes(encode(kind="jpeg"))
    assert len(open_images(str(tmp_path))) == 3


def test_linked_folders_are_read_and_circles_end(fill, tmp_path):
    fill(tmp_path / "real", 2)
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "link").symlink_to(tmp_path / "real")
    (photos / "circle").symlink_to(photos)
    assert len(open_images(str(photos))) == 2


def test_splits_without_classes_are_kept_apart(fill, tmp_path):
    fill(tmp_path / "train", 3)
    fill(tmp_path / "val", 2)
    splits = open_splits(str(tmp_path))
    assert (len(splits.train), len(splits.test), splits.test_split) == (3, 2, "validation")


def test_one_subfolder_is_no_class(fill, tmp_path):
    fill(tmp_path / "all", 3)
    assert open_images(str(tmp_path)).labels is None


def test_an_archive_deep_in_a_folder_of_images_changes_nothing(fill, tmp_path):
    fill(tmp_path / "2019", 3)
    (tmp_path / "2019" / "backup.tar").write_bytes(b"")
    assert len(open_images(str(tmp_path))) == 3


def test_class_folders_can_be_read_without_labels(fill, tmp_path):
    fill(tmp_path / "cat", 2)
    fill(tmp_path / "dog", 2)
    assert open_images(str(tmp_path)).labels is not None
    assert open_images(f"folder:{tmp_path}").labels is None


def test_a_changed_added_or_removed_image_is_seen(fill, encode, tmp_path):
    paths = fill(tmp_path / "photos", 4)
    seen = {open_images(str(tmp_path / "photos")).fingerprint}
    paths[0].write_bytes(encode(50))
    seen.add(open_images(str(tmp_path / "photos")).fingerprint)
    (tmp_path / "photos" / "new.png").write_bytes(encode(51))
    seen.add(open_images(str(tmp_path / "photos")).fingerprint)
    paths[2].unlink()
    images = open_images(str(tmp_path / "photos"))
    seen.add(images.fingerprint)
    assert len(seen) == 4
    assert decode_cached(images).array.shape[0] == 4


def test_a_file_that_is_no_image_is_named(fill, tmp_path):
    fill(tmp_path, 2)
    (tmp_path / "report.png").write_text("not an image")
    with pytest.raises(DataError, match=r"report\.png is not an image that can be read") as caught:
        decode_cached(open_images(str(tmp_path)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("prefix", ["", "folder:", "imagefolder:", "parquet:", "webdataset:"])
def test_an_empty_folder_is_one_clear_line(tmp_path, prefix):
    with pytest.raises(DataError, match=r"has no (images|class folders|\.parquet files|\.tar files)"):
        open_images(f"{prefix}{tmp_path}")


def test_a_folder_with_other_files_only_says_what_was_looked_for(tmp_path):
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(DataError, match=r"has no images; looked for .*\.jpg .* at any depth"):
        open_images(f"folder:{tmp_path}")


def test_a_file_is_no_folder(fill, tmp_path):
    path = fill(tmp_path, 1)[0]
    with pytest.raises(DataError, match=r"000\.png is a file; give the folder"):
        open_images(f"folder:{path}")
