"""`edgemim.runtime.compare.entries`: what a user writes, and which candidate is meant."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from edgemim.errors import ArtifactError, ConfigError
from edgemim.runtime.compare.entries import find_entries
from edgemim.runtime.device import describe_device

pytest.importorskip("onnxruntime", reason="needs onnxruntime")


def found(*given: str | Path) -> list[tuple[str, str, str]]:
    entries = find_entries(given, describe_device(), threads=1)
    pairs = [(entry.choice.pair.candidate.name, entry.choice.pair.backend.name) for entry in entries]
    return [(entry.label, *pair) for entry, pair in zip(entries, pairs, strict=True)]


def test_candidates_are_named_after_a_colon_and_backends_after_an_at(world: SimpleNamespace) -> None:
    path = world.bundle(evaluation=None)
    assert found(f"{path}:fp32@onnxruntime", f"{path}:int8-nncf@onnxruntime") == [
        ("fp32 on onnxruntime", "fp32", "onnxruntime"),
        ("int8-nncf on onnxruntime", "int8-nncf", "onnxruntime"),
    ]


def test_a_path_may_hold_colons_and_what_exists_decides(world: SimpleNamespace) -> None:
    path = world.bundle(evaluation=None, name="a:fp32")
    plain = world.bundle(evaluation=None, name="b")
    labels = [label for label, _, _ in found(f"{path}:int8-nncf@onnxruntime", f"{plain}:fp32@onnxruntime")]
    assert labels == ["a:fp32: int8-nncf on onnxruntime", "b: fp32 on onnxruntime"]
    # Its own candidate fp32, and not the bundle `a`.
    with pytest.raises(ConfigError, match=r"a:fp32 was not checked on this device"):
        found(path, f"{plain}:fp32")


def test_bundles_of_the_same_name_are_told_apart_by_their_folders(world: SimpleNamespace) -> None:
    one, other = world.bundle(evaluation=None, name="x/bundle"), world.bundle(evaluation=None, name="y/bundle")
    assert [label for label, _, _ in found(f"{one}:fp32@onnxruntime", f"{other}:fp32@onnxruntime")] == [
        f"{folder}: fp32 on onnxruntime" for folder in (one, other)
    ]


@pytest.mark.parametrize(
    ("tail", "error", "told"),
    [
        (":fp33", ConfigError, r"no candidate 'fp33'; did you mean 'fp32'"),
        (":fp32@onnxruntim", ConfigError, r"unknown backend 'onnxruntim'; did you mean 'onnxruntime'"),
        (":", ConfigError, "names no candidate; give BUNDLE"),
        (":fp32@", ConfigError, "names no backend; give BUNDLE"),
        ("x:fp32", ArtifactError, r"neither .*bundlex:fp32 nor .*bundlex exists; give BUNDLE"),
        ("x", ArtifactError, r"bundlex does not exist; give BUNDLE"),
    ],
)
def test_what_is_written_wrongly_is_told(world: SimpleNamespace, tail: str, error: type[Exception], told: str) -> None:
    path = world.bundle(evaluation=None)
    with pytest.raises(error, match=told):
        found(f"{path}:fp32", f"{path}{tail}")


def test_one_alone_is_nothing_to_compare(world: SimpleNamespace) -> None:
    with pytest.raises(ConfigError, match="comparing takes two or more; got 1; give BUNDLE"):
        found(f"{world.bundle()}:fp32")
