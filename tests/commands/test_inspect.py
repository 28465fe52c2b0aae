"""`edgemim inspect`: what every kind of artifact says about itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from edgemim.artifact import load_artifact

KINDS = {
    "teacher": "checkpoint",
    "student": "checkpoint",
    "classifier": "checkpoint",
    "bundle": "bundle",
    "report": "report",
}


@pytest.mark.parametrize("name", KINDS)
def test_json_is_the_manifest_verified(cli: Any, story: SimpleNamespace, name: str) -> None:
    path = getattr(story, name)
    done = cli("inspect", path, "--json")
    assert (done.code, done.err) == (0, "")
    artifact = load_artifact(path, KINDS[name])
    assert done.json == {
        "path": str(path),
        "kind": KINDS[name],
        "fingerprint": artifact.fingerprint,
        "size_bytes": sum((path / file).stat().st_size for file in artifact.files),
        "files": {file: {"sha256": r.sha256, "size": r.size} for file, r in artifact.files.items()},
        "content": artifact.content,
        "provenance": artifact.provenance,
    }


@pytest.mark.parametrize("name", KINDS)
def test_people_see_the_kind_the_files_and_the_stages(cli: Any, story: SimpleNamespace, name: str) -> None:
    done = cli("inspect", getattr(story, name))
    assert (done.code, done.err) == (0, "")
    artifact = load_artifact(getattr(story, name))
    assert done.out.splitlines()[0].split() == ["kind", KINDS[name]]
    assert [file for file in artifact.files if f"file {file} " not in done.out] == []
    stages = [line.split()[2] for line in done.out.splitlines() if line.startswith("stage ")]
    assert stages == [record["stage"] for record in artifact.provenance]


def test_a_stage_tells_its_data_its_teacher_and_its_scores(cli: Any, story: SimpleNamespace) -> None:
    out = cli("inspect", story.classifier).out
    assert "data digits (1437 images)" in out
    assert f"teacher {story.teacher} (licence " in out
    assert f"top1 {story.finetune_done.json['top1']:.4g}" in out
