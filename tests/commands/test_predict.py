"""`edgemim predict`: one line per image, and what cannot be read does not stop the others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgemim.runtime import load


def test_every_image_of_files_and_folders_gets_a_line(cli: Any, story: SimpleNamespace, data: Path) -> None:
    done = cli("predict", story.report, data / "mixed", data / "photos" / "03.png", "--top", "2")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert len(lines) == 13
    assert [line.split(": ")[0] for line in lines[:12]] == [str(f) for f in sorted((data / "mixed").iterdir())]
    with load(story.report) as model:
        best, second = model.predict(data / "photos" / "03.png", top=2)[0]
    assert lines[12] == f"{data / 'photos' / '03.png'}: {best.name} {best.score:.4f}, {second.name} {second.score:.4f}"
    (told,) = done.err.splitlines()
    assert told == f"{model.candidate} on {model.backend}, chosen by the check in {story.report}"


def test_json_is_one_object_a_line(cli: Any, story: SimpleNamespace, data: Path) -> None:
    named = ["--candidate", "fp32", "--backend", "onnxruntime", "--threads", "1"]
    done = cli("predict", story.bundle, data / "photos", "--json", "--top", "20", *named)
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [Path(row["file"]).name for row in rows] == [f"{i:02}.png" for i in range(12)]
    for row in rows:
        assert sum(label["score"] for label in row["labels"]) == pytest.approx(1, abs=1e-6)
        assert sorted(label["name"] for label in row["labels"]) == [str(n) for n in range(10)]
        assert np.all(np.diff([label["score"] for label in row["labels"]]) <= 0)


def test_an_image_that_cannot_be_read_is_told_and_the_others_are_done(
    cli: Any, story: SimpleNamespace, data: Path
) -> None:
    done = cli("predict", story.report, data / "broken", "gone.png")
    assert done.code == 2
    assert len(done.out.splitlines()) == 10
    _, *told = done.err.splitlines()
    assert [line.split(" ")[1] for line in told] == [*(str(data / "broken" / f"0{i}.png") for i in (3, 7)), "gone.png"]
    assert all(line.startswith("edgemim: ") for line in told)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["{bundle}", "{data}/empty", "--candidate", "fp32"], "empty has no images (.bmp, "),
        (["gone", "{data}/photos"], "gone does not exist"),
        (["{bundle}", "{data}/photos", "--candidate", "fp33"], "no candidate 'fp33'; did you mean 'fp32'"),
        (["{alone}", "{data}/photos"], "was not checked on this device, and names no choice of its own; name one of"),
    ],
)
def test_what_is_asked_for_wrongly_is_one_line(
    cli: Any, story: SimpleNamespace, data: Path, tmp_path: Path, arguments: list[str], told: str
) -> None:
    shutil.copytree(story.bundle, tmp_path / "alone")
    done = cli(
        "predict", *(word.format(bundle=story.bundle, data=data, alone=tmp_path / "alone") for word in arguments)
    )
    assert (done.code, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert line.startswith("edgemim: ")
    assert told in line
