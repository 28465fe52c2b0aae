"""The Hugging Face Hub: the loading code runs on a local copy, the error offline."""

import os
import subprocess
import sys

import datasets
import pytest

from edgemim.data.open import open_images, open_splits
from edgemim.data.sources.hub import Hub
from edgemim.errors import DataError


@pytest.fixture
def local_copy(encode, tmp_path, monkeypatch):
    """`owner/name` below the working folder: `datasets` takes it for the data set of that name."""
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    for split, count in (("train", 4), ("test", 2)):
        rows = {"img": [encode(i) for i in range(count)], "label": [i % 2 for i in range(count)]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(str(folder / f"{split}.parquet"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("local_copy")
@pytest.mark.parametrize("spec", ["hub:owner/name", "hub:owner/name:default"])
def test_splits_labels_and_classes_are_read(spec, encode):
    splits = open_splits(spec)
    assert (len(splits.train), len(splits.test)) == (4, 2)
    assert splits.train.encoded(3) == encode(3)
    assert splits.train.labels.tolist() == [0, 1, 0, 1]
    assert splits.test.class_names == ("cat", "dog")


@pytest.mark.usefixtures("local_copy")
def test_an_unknown_configuration_is_one_line():
    with pytest.raises(DataError, match="the Hub's data set owner/name:other cannot be read") as caught:
        open_images("hub:owner/name:other")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", ["hub:name", "hub:a/b/c", "hub:owner/name:", "hub:"])
def test_a_name_that_cannot_be_is_refused_without_asking(spec):
    with pytest.raises(DataError, match="named owner/name or owner/name:config"):
        open_images(spec)


def test_offline_is_one_clear_line():
    code = """
from edgemim.data.open import open_images
from edgemim.errors import DataError
try:
    open_images("nobody/nothing")
except DataError as error:
    print(error)
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert run.stdout.startswith("the Hub's data set nobody/nothing cannot be read: ")
    assert run.stdout.rstrip().endswith("check its name and the connection, or give a path that exists")
    assert run.stdout.count("\n") == 1


def test_a_path_with_a_typing_error_is_no_question_to_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    assert Hub().matches("owner/name")
    for spec in ("data/trian", "owner/name.parquet", "owner/name.tar", "./name", "/owner/name", "~/name"):
        assert not Hub().matches(spec)
