"""Every method, twenty steps on digits through the command line, with its own recipe for small images."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgemim.config import load_recipe, recipe_names
from edgemim.methods import METHODS
from edgemim.models.checkpoint import load_checkpoint

STEPS = 20
METHOD_NAMES = METHODS.names()
# The recipe's method, masking and schedule, on a backbone that takes a second.
TINY = ("backbone.embed_dim=32", "backbone.depth=2", "backbone.num_heads=4", "backbone.patch_size=8")
# The same for a method that needs a convnet: still 4 x 4 cells, as many as the patches of the teachers.
TINY_CONVNET = ("backbone.depths=[1, 1, 1, 1]", "backbone.dims=[8, 8, 16, 32]", "method.decoder_width=32")
RUN = ["--steps", STEPS, "--batch-size", 8]
# Features of so many training images tell a model that learned from one that did not.
FEW = ("--set", "evaluation.max_images=300")


def sets(pairs: tuple[str, ...]) -> list[str]:
    return [word for pair in pairs for word in ("--set", pair)]


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory, cli: Any) -> SimpleNamespace:
    """An MAE of digits, and a classifier made of it: both of the students' grid and statistics."""
    folder = tmp_path_factory.mktemp("teachers")
    pretrained, classifier = folder / "mae", folder / "classifier"
    shape = (*TINY, "method.decoder_width=32", "method.decoder_depth=1")
    first = cli("pretrain", "--data", "digits", "--recipe", "mae-small", *sets(shape), *RUN, "--out", pretrained)
    assert first.code == 0, first.err
    second = cli("finetune", pretrained, "--data", "digits", "--recipe", "finetune-small", *RUN, "--out", classifier)
    assert second.code == 0, second.err
    return SimpleNamespace(pretrained=pretrained, classifier=classifier)


def command_of(name: str) -> list[str]:
    return METHODS.describe(name).sections["command"].split(", ")


@pytest.mark.parametrize(
    ("name", "command"), [(name, command) for name in METHOD_NAMES for command in command_of(name)]
)
def test_it_trains_on_digits(cli: Any, teachers: SimpleNamespace, tmp_path: Path, name: str, command: str) -> None:
    method, out = METHODS.get(name), tmp_path / "run"
    recipe = load_recipe(f"{name}-small")
    assert recipe["method"]["name"] == name
    tiny = TINY_CONVNET if "sparse" in method.student_needs else TINY
    arguments: list[object] = ["--data", "digits", "--recipe", f"{name}-small", *sets(tiny), *RUN, *FEW]
    if "decoder_depth" in recipe["method"]:
        arguments += sets(("method.decoder_width=32", "method.decoder_depth=1", "method.decoder_heads=4"))
    if method.needs_teacher:
        arguments += ["--teacher", teachers.classifier if method.teacher_head else teachers.pretrained]
    done = cli(command, *arguments, "--out", out, "--json")
    assert done.code == 0, done.err
    assert (done.json["method"], done.json["stage"], done.json["steps"]) == (name, command, STEPS)
    assert done.json["knn_top1"] > 0.2
    checkpoint = load_checkpoint(out)
    assert checkpoint.num_classes == (10 if method.teacher_head else 0)
    if method.needs_teacher:
        assert checkpoint.artifact.provenance[-1]["teacher"]["sha256"]
    columns = next((out / "logs" / "csv").rglob("metrics.csv")).read_text("utf-8").splitlines()[0].split(",")
    terms = [c for c in columns if c.startswith("loss/")]
    assert len(terms) >= 2


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_it_has_the_papers_recipe_and_one_for_small_images(name: str) -> None:
    for recipe in (load_recipe(name), load_recipe(f"{name}-small")):
        assert recipe["method"]["name"] == name
        assert recipe["training"]["base_lr"] > 0
        assert ("masking" in recipe) == METHODS.get(name).masks


def test_the_papers_recipe_leaves_the_teacher_to_the_user(cli: Any, tmp_path: Path) -> None:
    for recipe in recipe_names():
        # Whoever gives --teacher would have to take this back.
        assert "backbone" not in load_recipe(recipe).get("teacher", {}), recipe
    common = ["--data", "digits", "--steps", 1, "--batch-size", 2, "--set", "evaluation.probe=none"]
    light = sets(("method.decoder_depth=1", "method.decoder_width=32", "method.decoder_heads=2"))
    small = [*sets(("backbone.depth=1", "backbone.embed_dim=32", "backbone.num_heads=2")), *light]
    first = cli("pretrain", *common, "--backbone", "vit_small_patch16_224", *small, "--out", tmp_path / "teacher")
    assert first.code == 0, first.err
    taught = ["--teacher", tmp_path / "teacher", "--student", "vit_tiny_patch16_224", *small]
    second = cli("distill", *common, *taught, "--out", tmp_path / "student", "--json")
    assert second.code == 0, second.err
    assert (second.json["method"], second.json["steps"]) == ("dmae", 1)
