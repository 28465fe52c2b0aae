"""The artifact: written whole or not at all, and read only when every byte is what was written."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgemim.artifact import (
    MANIFEST,
    Artifact,
    Draft,
    create_artifact,
    load_artifact,
    refuse_existing,
    seal,
    sha256_of,
    write_bytes,
    writing,
)
from edgemim.errors import ArtifactError, OutputError


def write_and(path: Path, then: Callable[[Draft], object], *, overwrite: bool = False) -> None:
    """Write `model.bin`, do something more in the block, and finish."""
    with create_artifact(path, "checkpoint", overwrite=overwrite) as draft:
        draft.path("model.bin").write_text("new")
        then(draft)


def fail_with(error: BaseException) -> Callable[[Draft], object]:
    def fail(_: Draft) -> None:
        raise error

    return fail


def write(path: Path, *, overwrite: bool = False, text: str = "weights") -> None:
    """A small artifact of two files, one of them in a folder."""
    with create_artifact(path, "checkpoint", overwrite=overwrite) as draft:
        draft.path("model.bin").write_text(text)
        draft.path("golden/inputs.bin").write_bytes(bytes(range(256)))
        draft.content["architecture"] = "vit"
        draft.record("pretrain", seed=3)


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    write(tmp_path / "out")
    return load_artifact(tmp_path / "out")


def edit(artifact: Artifact, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest on disk."""
    file = artifact.path / MANIFEST
    manifest = json.loads(file.read_text())
    change(manifest)
    file.write_text(json.dumps(manifest))


def refusal(path: Path, kind: str | None = None) -> str:
    with pytest.raises(ArtifactError) as caught:
        load_artifact(path, kind)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_was_written_is_read_back(artifact: Artifact) -> None:
    assert artifact.kind == "checkpoint"
    assert artifact.content == {"architecture": "vit"}
    assert artifact.file("model.bin").read_text() == "weights"
    assert artifact.size == len("weights") + 256
    assert artifact.files["model.bin"].sha256 == hashlib.sha256(b"weights").hexdigest()
    (record,) = artifact.provenance
    assert (record["stage"], record["seed"]) == ("pretrain", 3)
    assert {"time", "edgemim"} <= set(record)


def test_a_finished_write_leaves_the_folder_and_nothing_else(artifact: Artifact) -> None:
    assert os.listdir(artifact.path.parent) == ["out"]
    assert sorted(os.listdir(artifact.path)) == ["golden", MANIFEST, "model.bin"]


def test_the_fingerprint_depends_on_content_and_not_on_the_place(tmp_path: Path) -> None:
    for name, text in (("a", "same"), ("b", "same"), ("c", "other")):
        write(tmp_path / name, text=text)
    a, b, c = (load_artifact(tmp_path / name).fingerprint for name in "abc")
    assert a == b != c


def test_a_file_that_the_manifest_does_not_name_is_not_handed_out(artifact: Artifact) -> None:
    (artifact.path / "log.txt").write_text("extra")
    with pytest.raises(ArtifactError, match=r"has no file 'log\.txt'; it has \['golden/inputs\.bin'"):
        load_artifact(artifact.path).file("log.txt")


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
def test_an_exception_in_the_block_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        write_and(tmp_path / "out", fail_with(error))
    assert os.listdir(tmp_path) == []


def test_an_exception_while_overwriting_keeps_the_old_artifact(artifact: Artifact) -> None:
    with pytest.raises(RuntimeError):
        write_and(artifact.path, fail_with(RuntimeError()), overwrite=True)
    assert load_artifact(artifact.path).fingerprint == artifact.fingerprint
    assert os.listdir(artifact.path.parent) == ["out"]


def test_overwriting_replaces_the_whole_folder(artifact: Artifact) -> None:
    with create_artifact(artifact.path, "onnx", overwrite=True) as draft:
        draft.path("fp32.onnx").write_bytes(b"graph")
    assert set(load_artifact(artifact.path, "onnx").files) == {"fp32.onnx"}
    assert not (artifact.path / "model.bin").exists()
    assert os.listdir(artifact.path.parent) == ["out"]


def test_an_existing_artifact_is_refused_without_overwrite(artifact: Artifact) -> None:
    with pytest.raises(OutputError, match=r"exists; choose another --out, or replace it with --overwrite"):
        write(artifact.path)
    assert load_artifact(artifact.path).fingerprint == artifact.fingerprint


def test_overwrite_leaves_a_folder_alone_that_edgemim_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"dear")
    with pytest.raises(OutputError, match="was not written by edgemim"):
        write(tmp_path / "photos", overwrite=True)
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"dear"


def test_overwrite_leaves_a_file_alone(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError):
        refuse_existing(tmp_path / "out", overwrite=True)


def test_an_empty_folder_may_be_the_output_even_when_it_is_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    write(Path("."))
    assert load_artifact(tmp_path / "out").file("model.bin").exists()
    assert os.listdir(tmp_path) == ["out"]


def test_a_run_that_finished_first_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="exists"):
        write_and(tmp_path / "out", lambda _: write(tmp_path / "out", text="first"))
    assert load_artifact(tmp_path / "out").file("model.bin").read_text() == "first"
    assert os.listdir(tmp_path) == ["out"]


def test_an_output_that_is_a_link_stays_one_and_its_folder_is_filled(tmp_path: Path) -> None:
    write(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    write(tmp_path / "link", overwrite=True, text="new")
    assert (tmp_path / "link").is_symlink()
    assert load_artifact(tmp_path / "real").file("model.bin").read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["link", "real"]


def test_the_parents_of_the_output_are_made(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b" / "out")
    assert load_artifact(tmp_path / "a" / "b" / "out").kind == "checkpoint"


def test_a_parent_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="a part of the path is a file; choose another --out"):
        write(tmp_path / "file" / "out")


def test_copying_takes_the_provenance_along(artifact: Artifact, tmp_path: Path) -> None:
    with create_artifact(tmp_path / "next", artifact.kind) as draft:
        draft.copy_from(artifact)
        draft.content = dict(artifact.content)
        draft.record("export")
    copy = load_artifact(tmp_path / "next")
    assert copy.fingerprint == artifact.fingerprint
    assert [record["stage"] for record in copy.provenance] == ["pretrain", "export"]


def test_sealing_needs_no_move_and_ignores_files_it_is_not_told_of(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"weights")
    (tmp_path / "last").mkdir()
    (tmp_path / "last" / "state.bin").write_bytes(b"state")
    seal(tmp_path, "checkpoint", ["model.bin"], content={}, provenance=[])
    (tmp_path / "last" / "state.bin").write_bytes(b"later")
    assert set(load_artifact(tmp_path).files) == {"model.bin"}


@pytest.mark.parametrize("name", ["model.bin", "golden/inputs.bin"])
@given(where=st.integers(0, 6), flip=st.integers(1, 255))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=10)
def test_one_altered_byte_in_any_file_is_refused(artifact: Artifact, name: str, where: int, flip: int) -> None:
    file = artifact.path / name
    good = file.read_bytes()
    file.write_bytes(good[:where] + bytes([good[where] ^ flip]) + good[where + 1 :])
    try:
        assert "was altered: its sha256 is not the manifest's" in refusal(artifact.path)
    finally:
        file.write_bytes(good)
    assert load_artifact(artifact.path).fingerprint == artifact.fingerprint


@pytest.mark.parametrize("content", [b"", b"weight", b"weights!"])
def test_a_shorter_or_longer_file_is_refused_with_both_sizes(artifact: Artifact, content: bytes) -> None:
    (artifact.path / "model.bin").write_bytes(content)
    assert f"was altered: {len(content)} bytes, the manifest says 7" in refusal(artifact.path)


def test_a_missing_file_is_named(artifact: Artifact) -> None:
    (artifact.path / "golden" / "inputs.bin").unlink()
    assert "is incomplete: golden/inputs.bin is missing" in refusal(artifact.path)


def test_a_link_out_of_the_folder_is_refused_though_its_bytes_are_right(artifact: Artifact) -> None:
    outside = artifact.path.parent / "outside.bin"
    outside.write_text("weights")
    (artifact.path / "model.bin").unlink()
    (artifact.path / "model.bin").symlink_to(outside)
    assert "is a link that leaves the folder" in refusal(artifact.path)


@pytest.mark.parametrize(
    "name", ["../outside.bin", "/etc/hostname", "golden/../../outside.bin", "..", "", ".", "a\\..\\b"]
)
def test_a_manifest_cannot_name_a_file_outside_its_folder(artifact: Artifact, name: str) -> None:
    outside = artifact.path.parent / "outside.bin"
    outside.write_text("weights")
    record = {"sha256": sha256_of(outside), "size": 7}
    edit(artifact, lambda manifest: manifest["files"].update({name: record}))
    assert "names a file outside its folder" in refusal(artifact.path)


@pytest.mark.parametrize(
    "record",
    [
        None,
        {},
        {"sha256": "0" * 64},
        {"sha256": "0" * 63, "size": 1},
        {"sha256": 5, "size": 1},
        {"sha256": "0" * 64, "size": "1"},
        {"sha256": "0" * 64, "size": True},
        {"sha256": "0" * 64, "size": 1, "mode": 7},
    ],
)
def test_a_file_entry_without_hash_and_size_is_refused(artifact: Artifact, record: Any) -> None:
    edit(artifact, lambda manifest: manifest["files"].update({"model.bin": record}))
    assert "has no valid sha256 and size for 'model.bin'" in refusal(artifact.path)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_schema_version_is_refused_with_both_numbers(artifact: Artifact, version: Any) -> None:
    edit(artifact, lambda manifest: manifest.update(schema_version=version))
    assert f"has schema version {version!r}" in refusal(artifact.path)
    assert "reads 1" in refusal(artifact.path)


def test_another_kind_is_refused_with_both_kinds(artifact: Artifact) -> None:
    assert refusal(artifact.path, "bundle").endswith("is a checkpoint; here a bundle is needed")
    edit(artifact, lambda manifest: manifest.update(kind="engine"))
    assert "has the unknown kind 'engine'" in refusal(artifact.path)


@pytest.mark.parametrize("key", ["files", "content", "provenance"])
def test_a_manifest_without_one_of_its_parts_is_refused(artifact: Artifact, key: str) -> None:
    edit(artifact, lambda manifest: manifest.pop(key))
    assert f"lacks {key}" in refusal(artifact.path)


@pytest.mark.parametrize("text", ["", "{", "[1]", '"x"', "null", "[" * 100_000, "\udc80"])
def test_a_manifest_that_is_not_ours_is_one_line(artifact: Artifact, text: str) -> None:
    (artifact.path / MANIFEST).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert MANIFEST in refusal(artifact.path)


@given(cut=st.integers(0, 600))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_a_manifest_that_was_cut_off_is_refused(artifact: Artifact, cut: int) -> None:
    file = artifact.path / MANIFEST
    whole = file.read_bytes()
    file.write_bytes(whole[: min(cut, len(whole) - 2)])  # the last two bytes are "}" and a newline
    try:
        assert "is damaged" in refusal(artifact.path)
    finally:
        file.write_bytes(whole)


def test_what_is_no_artifact_says_so(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none").endswith("does not exist")
    assert refusal(tmp_path).endswith("is not an edgemim artifact: no manifest.json")
    (tmp_path / "file").write_text("x")
    assert "is not an edgemim artifact" in refusal(tmp_path / "file")
    (tmp_path / "last").mkdir()
    assert "run it again with --resume" in refusal(tmp_path)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "state.json"
    write_bytes(file, b"old")

    def fail(*_: object) -> None:
        raise OSError(5, "input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="input/output error"):
        write_bytes(file, b"new")
    assert file.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["state.json"]


def test_a_full_device_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    def write_to_it(draft: Draft) -> None:
        draft.path("big.bin").symlink_to("/dev/full")
        draft.path("big.bin").write_bytes(b"x")

    with pytest.raises(OutputError, match="the disk is full; free some space or choose another --out") as caught:
        write_and(tmp_path / "out", write_to_it)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB; only root can mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("only root can mount a small file system")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=64k", "none", disk], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_is_one_line_and_the_old_artifact_is_untouched(tiny_disk: Path) -> None:
    write(tiny_disk / "out")
    before = load_artifact(tiny_disk / "out").fingerprint
    with pytest.raises(OutputError, match="the disk is full"):
        write_and(tiny_disk / "out", lambda draft: draft.path("big.bin").write_bytes(b"x" * 200_000), overwrite=True)
    assert load_artifact(tiny_disk / "out").fingerprint == before
    assert os.listdir(tiny_disk) == ["out"]


@pytest.mark.parametrize("part", ["content", "provenance", "kind"])
def test_an_altered_manifest_is_refused(artifact: Artifact, part: str) -> None:
    """A gate or a class name changed by hand is an altered artifact, though every file is as it was."""
    file = artifact.path / MANIFEST
    manifest = json.loads(file.read_text())
    manifest[part] = {"content": {"gates": {"p99_ms": 1000}}, "provenance": [], "kind": "report"}[part]
    file.write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"manifest\.json was altered"):
        load_artifact(artifact.path)


def test_an_input_that_cannot_be_read_is_not_blamed_on_the_output(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    error = PermissionError(13, "denied", str(tmp_path / "in" / "weights"))
    with pytest.raises(PermissionError), writing(tmp_path / "results" / "out"):
        raise error
