"""WebDataset shards."""

import io
import os
import pickle
import tarfile

import pytest

from edgemim.data.open import open_images, open_splits
from edgemim.errors import DataError


def _write(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def shard(encode):
    """Write a shard of `count` labelled PNG samples, numbered from `first`."""

    def make(path, count=3, first=0):
        samples = range(first, first + count)
        members = {f"{i:04}.{key}": d for i in samples for key, d in (("png", encode(i)), ("cls", b"%d" % (i % 2)))}
        return _write(path, members)

    return make


def test_images_and_classes_are_read(shard, encode, tmp_path):
    images = open_images(str(shard(tmp_path / "a.tar")))
    assert images.encoded_block(0, 3) == [encode(i) for i in range(3)]
    assert images.labels.tolist() == [0, 1, 0]
    assert images.class_names is None
    assert images.describe(1) == f"image 1 of {tmp_path}/a.tar (0001.png)"


@pytest.mark.parametrize("pattern", ["", "shard-*.tar", "shard-{000..001}.tar"])
def test_shards_are_read_in_order_from_folder_glob_and_braces(shard, encode, tmp_path, pattern):
    shard(tmp_path / "shard-001.tar", first=3)
    shard(tmp_path / "shard-000.tar")
    images = open_images(str(tmp_path / pattern))
    assert images.encoded_block(0, 6) == [encode(i) for i in range(6)]


def test_the_split_is_read_from_the_name(shard, tmp_path):
    shard(tmp_path / "train" / "000.tar", count=4)
    shard(tmp_path / "val" / "000.tar", count=2)
    splits = open_splits(str(tmp_path))
    assert (len(splits.train), len(splits.test), splits.test_split) == (4, 2, "validation")


def test_kinds_may_be_mixed_and_other_files_are_ignored(encode, tmp_path):
    members = {
        "a.jpg": encode(0, kind="jpeg"),
        "a.json": b'{"x": 1}',
        "b.png": encode(1),
        "b.seg.png": encode(5),
    }
    images = open_images(str(_write(tmp_path / "a.tar", members | {"c.JPEG": encode(2, kind="jpeg")})))
    assert [images.suffix(i) for i in range(3)] == [".jpg", ".png", ".jpg"]
    assert images.labels is None


def test_a_changed_shard_is_not_served_from_the_cache(shard, encode, tmp_path):
    path = shard(tmp_path / "a.tar")
    before = os.stat(path)
    open_images(str(path))
    shard(path, first=50)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert open_images(str(path)).encoded(0) == encode(50)


@pytest.mark.parametrize("members", [{"a.txt": b"text", "b.txt": b"text"}, {}], ids=["text only", "empty"])
def test_a_shard_without_images_is_refused(tmp_path, members):
    with pytest.raises(DataError, match=r"has no images; looked for files|holds no images"):
        open_images(str(_write(tmp_path / "a.tar", members)))


def test_a_sample_without_an_image_is_named(encode, tmp_path):
    members = {"a.png": encode(), "a.cls": b"0", "b.cls": b"1"}
    with pytest.raises(DataError, match=r"sample 1 of .*a\.tar has no image \(1 have none\)"):
        open_images(str(_write(tmp_path / "a.tar", members)))


def test_a_class_that_is_no_number_is_one_line(encode, tmp_path):
    with pytest.raises(DataError, match=r"a\.tar cannot be read: invalid literal for int.*'cat'") as caught:
        open_images(str(_write(tmp_path / "a.tar", {"a.png": encode(), "a.cls": b"cat"})))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_tar_is_one_line(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"not a tar file" * 100)
    with pytest.raises(DataError, match=r"a\.tar cannot be read: ") as caught:
        open_images(str(tmp_path / "a.tar"))
    assert "\n" not in str(caught.value)


def test_a_shard_cut_off_is_one_line(shard, tmp_path):
    path = shard(tmp_path / "a.tar", count=30)
    path.write_bytes(path.read_bytes()[:10_000])
    with pytest.raises(DataError, match=r"a\.tar cannot be read: ") as caught:
        open_images(str(path))
    assert "\n" not in str(caught.value)


def test_files_that_would_run_code_are_never_loaded(encode, tmp_path):
    # A pickle that makes a folder when it is loaded.
    pickled = f"cos\nmkdir\n(V{tmp_path / 'ran'}\ntR.".encode()
    members = {"a.png": encode(), "a.pyd": pickled, "a.pickle": pickled, "a.pkl": pickled}
    assert len(open_images(str(_write(tmp_path / "a.tar", members)))) == 1
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickled)
    assert (tmp_path / "ran").exists()
