"""From a spec to images."""

import pytest

from edgemim.data.open import open_images, open_splits
from edgemim.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("digit", "data set digit does not exist; did you mean 'digits'?"),
        (
            "no/such/folder",
            "data set no/such/folder does not exist; give a folder, .parquet or",
        ),
        ("", "no data set is given; give a folder"),
        ("parqet:x.png", "'parqet' is no source; did you mean 'parquet'?"),
    ],
)
def test_a_spec_that_nothing_reads_says_what_would_be_right(spec, message):
    with pytest.raises(DataError) as caught:
        open_images(spec)
    assert message in str(caught.value)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "data.csv").write_text("a,b")
    with pytest.raises(DataError, match=r"data\.csv is not a data set: give a folder"):
        open_images(str(tmp_path / "data.csv"))


def test_an_unknown_split_names_the_nearest():
    with pytest.raises(DataError, match=r"digits has no split 'tset'; did you mean 'test'?"):
        open_images("digits", split="tset")
    with pytest.raises(DataError, match="digits has no split 'val'; known: test, train"):
        open_images("digits", split="val")


def test_a_set_without_train_cannot_be_split(fill, tmp_path):
    fill(tmp_path / "val", 2)
    fill(tmp_path / "test", 2)
    with pytest.raises(DataError, match="has no split 'train'; it has test, validation"):
        open_splits(str(tmp_path))


def test_the_held_out_images_are_not_trained_on_and_depend_on_the_seed(fill, tmp_path):
    fill(tmp_path, 30)
    first, again = open_splits(str(tmp_path)), open_splits(str(tmp_path))
    assert (len(first.train), len(first.test)) == (27, 3)
    assert first.test.fingerprint == again.test.fingerprint
    assert first.test.fingerprint != open_splits(str(tmp_path), seed=1).test.fingerprint
    train = {first.train.encoded(i) for i in range(27)}
    assert not train & {first.test.encoded(i) for i in range(3)}


def test_a_share_out_of_range_is_refused(fill, tmp_path):
    fill(tmp_path, 3)
    with pytest.raises(ConfigError, match=r"must lie in \(0, 1\); got 1.5"):
        open_splits(str(tmp_path), holdout=1.5)


def test_the_home_folder_may_be_written_as_a_tilde(fill, tmp_path, monkeypatch):
    fill(tmp_path / "photos", 2)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(open_images("~/photos")) == 2
    assert len(open_images("folder:~/photos")) == 2
