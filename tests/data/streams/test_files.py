"""Finding and reading files by path and URL."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from edgemim.data.streams.files import find_files
from edgemim.errors import DataError, MissingDependencyError

SUFFIXES = (".parquet", ".tar")


def names(spec: str) -> list[str]:
    return [shard.name for shard in find_files(spec, SUFFIXES)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("train/b.tar", "train/a.tar", "test/c.tar", ".cache/d.tar", "train/.e.tar", "card.md"):
        file = tmp_path / "set" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(name.encode())
    return tmp_path / "set"


@pytest.fixture
def store() -> Iterator[fsspec.AbstractFileSystem]:
    """A store in memory that is reached by `memory://`, as one far away is by its URL."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


def test_a_folder_gives_its_shards_at_any_depth_but_no_hidden_ones(folder: Path) -> None:
    shards = find_files(str(folder), SUFFIXES)
    assert [shard.name for shard in shards] == ["test/c.tar", "train/a.tar", "train/b.tar"]
    assert [shard.url for shard in shards] == [str(folder / shard.name) for shard in shards]
    assert [shard.size for shard in shards] == [10, 11, 11]


def test_globs_braces_and_single_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert names(f"{folder}/train/*.tar") == ["a.tar", "b.tar"]
    assert names(f"{folder}/*/*.tar") == ["test/c.tar", "train/a.tar", "train/b.tar"]
    assert names(f"{folder}/train/{{b,a}}.tar") == ["a.tar", "b.tar"]
    assert names(f"{folder}/train/a.tar") == ["a.tar"]
    monkeypatch.chdir(folder)
    assert names("train") == ["a.tar", "b.tar"]


def test_parquet_is_taken_before_tar(folder: Path) -> None:
    (folder / "z.parquet").write_bytes(b"")
    assert names(str(folder)) == ["z.parquet"]


def test_a_link_counts_as_what_it_leads_to(folder: Path) -> None:
    (folder / "train" / "a.tar").rename(folder / "blob")
    (folder / "train" / "a.tar").symlink_to(folder / "blob")
    found = {shard.name: shard.size for shard in find_files(str(folder), SUFFIXES)}
    assert found["train/a.tar"] == 11


def test_a_changed_file_has_another_version(folder: Path) -> None:
    (before,) = find_files(f"{folder}/train/a.tar", SUFFIXES)
    (same,) = find_files(f"{folder}/train/a.tar", SUFFIXES)
    assert before == same
    (folder / "train" / "a.tar").write_bytes(b"train/A.tar")
    (after,) = find_files(f"{folder}/train/a.tar", SUFFIXES)
    assert after.version != before.version


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere", r"nowhere cannot be read: it does not exist; check the name"),
        ("train/x-*.tar", r"train/x-\*\.tar matches no file"),
        ("train/{a,x}.tar", r"train/x\.tar cannot be read: it does not exist"),
        ("card.md", r"card\.md has no \.parquet or \.tar files"),
        ("zip://a.tar::x.zip", r"chained URLs are not read"),
    ],
)
def test_what_is_not_there_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch, spec: str, message: str) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(DataError, match=message) as caught:
        find_files(spec, SUFFIXES)
    assert "\n" not in str(caught.value)


def test_a_url_is_read_from_its_store(store: fsspec.AbstractFileSystem) -> None:
    store.pipe({"/set/train/a.tar": b"0123456789", "/set/train/b.tar": b"x"})
    first, second = find_files("memory://set/train/*.tar", SUFFIXES)
    assert (first.name, first.size, second.name) == ("a.tar", 10, "b.tar")
    assert first.url.startswith("memory://")
    assert first.bytes_between(2, 5) == b"234"
    with second.opened() as stream:
        assert stream.read() == b"x"


def test_a_url_whose_package_is_missing_names_it() -> None:
    message = re.escape("reading boxes:// URLs needs the package 'absentboxes', which is not installed")
    fsspec.register_implementation("boxes", "absentboxes.Boxes", errtxt="no boxes", clobber=True)
    with pytest.raises(MissingDependencyError, match=message + r"; run: pip install absentboxes"):
        find_files("boxes://a/b.tar", SUFFIXES)


def test_an_unknown_kind_of_url_is_one_line() -> None:
    with pytest.raises(DataError, match=r"nosuch://a\.tar cannot be read: Protocol not known: nosuch"):
        find_files("nosuch://a.tar", SUFFIXES)


def test_a_file_that_disappears_says_to_restore_it(folder: Path) -> None:
    (shard,) = find_files(f"{folder}/train/a.tar", SUFFIXES)
    (folder / "train" / "a.tar").unlink()
    with pytest.raises(DataError, match=r"a\.tar cannot be read: it does not exist; restore it, and go on with"):
        shard.bytes_between(0, 2)


def test_a_file_that_became_shorter_has_changed(folder: Path) -> None:
    (shard,) = find_files(f"{folder}/train/a.tar", SUFFIXES)
    with pytest.raises(DataError, match=r"a\.tar has changed since the run began"):
        shard.bytes_between(5, 50)
