"""Parquet files."""

import os
from pathlib import Path

import datasets
import numpy as np
import pytest

from edgemim.data.open import open_images, open_splits
from edgemim.errors import DataError

CIFAR10 = Path(__file__).parents[4] / "shared" / "data" / "cifar10"


@pytest.fixture
def write(encode):
    """Write `count` images with the Hub's schema, or with the columns given."""

    def make(path, count=4, *, seed=0, image="image", label="label", names=("cat", "dog"), **columns):
        path.parent.mkdir(parents=True, exist_ok=True)
        features = {image: datasets.Image(), label: datasets.ClassLabel(names=list(names))}
        rows = {image: [encode(seed + i) for i in range(count)], label: [i % 2 for i in range(count)]}
        dataset = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
        for name, values in columns.items():
            dataset = dataset.add_column(name, values)
        dataset.to_parquet(str(path))
        return path

    return make


def _plain(path, rows):
    datasets.Dataset.from_dict(rows).to_parquet(str(path))
    return str(path)


@pytest.mark.parametrize(("image", "label"), [("image", "label"), ("img", "fine_label"), ("picture", "labels")])
def test_images_labels_and_class_names_are_found(write, encode, tmp_path, image, label):
    images = open_images(str(write(tmp_path / "train.parquet", image=image, label=label, extra=[1, 2, 3, 4])))
    assert images.encoded(2) == encode(2)
    assert images.labels.tolist() == [0, 1, 0, 1]
    assert images.class_names == ("cat", "dog")


def test_a_column_of_bytes_needs_no_schema_of_the_hub(encode, tmp_path):
    path = _plain(tmp_path / "data.parquet", {"image": [encode(0), encode(1)], "label": [5, 7]})
    images = open_images(path)
    assert images.encoded(1) == encode(1)
    assert (images.labels.tolist(), images.class_names, images.num_classes) == ([5, 7], None, 8)


def test_bytes_and_path_need_no_schema_of_the_hub(encode, tmp_path):
    rows = {"image": [{"bytes": encode(0), "path": "a.png"}, {"bytes": b"no image", "path": "b.png"}]}
    images = open_images(_plain(tmp_path / "data.parquet", rows))
    assert images.labels is None
    assert images.image(0).size == (8, 6)
    with pytest.raises(DataError, match=r"image 1 of .*data\.parquet \(b\.png\) is not an image"):
        images.image(1)


def test_a_folder_of_shards_is_read_in_order_and_by_split(write, encode, tmp_path):
    write(tmp_path / "data" / "train-00001-of-00002.parquet", seed=4)
    write(tmp_path / "data" / "train-00000-of-00002.parquet")
    write(tmp_path / "data" / "test-00000-of-00001.parquet", seed=8, count=2)
    splits = open_splits(str(tmp_path))
    assert (len(splits.train), len(splits.test), splits.test_split) == (8, 2, "test")
    assert splits.train.encoded_block(0, 8) == [encode(i) for i in range(8)]
    assert splits.test.encoded(0) == encode(8)


def test_splits_may_be_folders_as_on_the_hub(write, tmp_path):
    write(tmp_path / "train" / "0000.parquet")
    write(tmp_path / "validation" / "0000.parquet", seed=8, count=2)
    assert len(open_images(str(tmp_path), split="val")) == 2


def test_globs_and_braces_choose_files(write, tmp_path):
    for i in range(3):
        write(tmp_path / f"part-{i}.parquet", count=1, seed=i)
    assert len(open_images(str(tmp_path / "part-*.parquet"))) == 3
    assert len(open_images(str(tmp_path / "part-{0..1}.parquet"))) == 2
    with pytest.raises(DataError, match=r"part-3\.parquet does not exist"):
        open_images(str(tmp_path / "part-{2..3}.parquet"))
    with pytest.raises(DataError, match=r"none-\*\.parquet matches no file"):
        open_images(str(tmp_path / "none-*.parquet"))


def test_a_glob_of_folders_is_refused(tmp_path):
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(DataError, match="matches folders only"):
        open_images(str(tmp_path / "*.parquet"))


def test_pictures_beside_the_shards_do_not_make_it_a_folder_of_images(write, fill, tmp_path):
    fill(tmp_path, 1)
    write(tmp_path / "train.parquet")
    assert len(open_images(str(tmp_path))) == 4


def test_a_single_file_is_the_set_whatever_its_name(write, tmp_path):
    path = str(write(tmp_path / "test.parquet", count=20))
    assert len(open_images(path)) == len(open_images(path, split="test")) == 20
    assert open_splits(path).test_split == "held out"


def test_a_changed_file_is_not_served_from_the_cache(write, encode, tmp_path):
    path = write(tmp_path / "train.parquet")
    before = os.stat(path)
    first = open_images(str(path))
    assert first.encoded(0) == encode(0)
    write(path, seed=100)
    # What rsync -t and tar do: the time that datasets itself goes by is the old one again.
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    again = open_images(str(path))
    assert again.encoded(0) == encode(100)
    assert again.fingerprint != first.fingerprint


def test_the_copy_of_datasets_lies_in_edgemims_cache(write, private_caches, monkeypatch, tmp_path):
    path = str(write(tmp_path / "train.parquet"))
    open_images(path)
    assert list((private_caches / "edgemim" / "datasets").rglob("*.arrow"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "mine"))
    open_images(path)
    assert list((tmp_path / "mine").rglob("*.arrow"))


def test_no_image_column_names_the_columns_found(tmp_path):
    path = _plain(tmp_path / "table.parquet", {"width": [1], "label": [0]})
    with pytest.raises(DataError, match=r"table\.parquet has no image column; it has 'width', 'label'"):
        open_images(path)


def test_labels_that_are_text_are_refused(encode, tmp_path):
    path = _plain(tmp_path / "data.parquet", {"image": [encode()], "label": ["cat"]})
    with pytest.raises(DataError, match="labels must be integers; column 'label' is string"):
        open_images(path)


def test_labels_that_are_missing_or_out_of_range_are_refused_where_needed(encode, tmp_path):
    path = _plain(tmp_path / "data.parquet", {"image": [encode(0), encode(1)], "label": [0, None]})
    images = open_images(path)
    assert images.image(1).size == (8, 6)
    with pytest.raises(DataError, match=r"image 1 of .* has a label out of range: missing, must be"):
        images.require_labels("finetune")


def test_a_file_that_is_no_parquet_is_one_line(tmp_path):
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 but not really PAR1")
    with pytest.raises(DataError, match=r"bad\.parquet cannot be read: ") as caught:
        open_images(str(tmp_path / "bad.parquet"))
    assert "\n" not in str(caught.value)


def test_a_file_cut_off_is_one_line(write, tmp_path):
    path = write(tmp_path / "train.parquet")
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DataError, match=r"train\.parquet cannot be read: ") as caught:
        open_images(str(path))
    assert "\n" not in str(caught.value)


def test_damaged_pages_are_one_line(write, tmp_path):
    path = write(tmp_path / "train.parquet", count=40)
    data = bytearray(path.read_bytes())
    data[4:64] = b"\xff" * 60
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"train\.parquet cannot be read: ") as caught:
        open_images(str(path))
    assert "\n" not in str(caught.value)


def test_a_file_without_rows_is_refused(write, tmp_path):
    with pytest.raises(DataError, match="cannot be read: it holds no images"):
        open_images(str(write(tmp_path / "train.parquet", count=0)))


def test_splits_with_different_classes_are_refused(write, tmp_path):
    write(tmp_path / "train.parquet")
    write(tmp_path / "test.parquet", names=("dog", "cat"))
    with pytest.raises(DataError, match=r"the splits train and test of .* have different classes"):
        open_splits(str(tmp_path))


@pytest.mark.skipif(not CIFAR10.is_dir(), reason="needs ../shared/data/cifar10")
def test_cifar10_opens_with_its_classes_and_splits():
    splits = open_splits(str(CIFAR10))
    assert (len(splits.train), len(splits.test)) == (50_000, 10_000)
    assert splits.train.class_names[:2] == ("airplane", "automobile")
    assert np.bincount(splits.test.require_labels("finetune")).tolist() == [1000] * 10
    assert (splits.test.suffix(9_999), splits.test.image(9_999).size) == (".jpg", (32, 32))
