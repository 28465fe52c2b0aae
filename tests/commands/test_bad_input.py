"""What a user can get wrong: one line that says what, what was found and what to do; exit 2; nothing written."""

from __future__ import annotations

import errno
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

World = SimpleNamespace


class Trap:
    """Unpickled, it would leave a file behind."""

    def __init__(self, file: Path) -> None:
        self.file = str(file)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.file,)


def flip(file: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, story: SimpleNamespace, data: Path, options: Any, cli: Any
) -> World:
    """Everything that a command can be given, good and bad."""
    folder = tmp_path_factory.mktemp("world")
    for name, source in (("cut", story.student), ("flipped", story.student), ("spoiled", story.bundle)):
        shutil.copytree(source, folder / name)
    weights = folder / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    flip(folder / "flipped" / "model.safetensors")
    flip(folder / "spoiled" / "int8-linear.onnx")
    shutil.copytree(story.bundle, folder / "torn")
    manifest = (folder / "torn" / "manifest.json").read_text("utf-8")
    (folder / "torn" / "manifest.json").write_text(manifest[:-200], "utf-8")
    (folder / "plain.pth").write_bytes(pickle.dumps({"model": Trap(folder / "trapped")}))
    torch.save({"model": Trap(folder / "trapped")}, folder / "code.pth")
    (folder / "short.safetensors").write_bytes((story.student / "model.safetensors").read_bytes()[:3000])
    (folder / "odd.toml").write_text("[training\n", "utf-8")
    (folder / "table.toml").write_text('backbone = 3\n[method]\nname = "mae"\n[training]\nsteps = 1\n', "utf-8")
    amt = ["--recipe", "amt-small", *options.small, *options.short]
    done = cli("pretrain", "--data", data / "photos", *amt, "--out", folder / "remembers")
    assert done.code == 0, done.err
    (folder / "foreign").mkdir()
    (folder / "foreign" / "thesis.tex").write_text("precious", "utf-8")
    return World(story=story, data=data, options=options, **{p.name.replace(".", "_"): p for p in folder.iterdir()})


@pytest.fixture
def refused(cli: Any, tmp_path: Path) -> Callable[..., str]:
    """Run a command that must fail as the module says; gives its line."""

    def call(*arguments: object) -> str:
        before = sorted(tmp_path.rglob("*"))
        done = cli(*arguments)
        assert (done.code, done.out) == (2, ""), done.err
        assert done.err.startswith("edgemim: ")
        assert done.err.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before
        line: str = done.err
        return line

    return call


def pretrain(w: World, *more: object) -> list[object]:
    return ["pretrain", "--data", w.data / "photos", *w.options.pretrain, *more]


def convnet(w: World, name: str, *sets: str, recipe: str = "spark-small") -> list[object]:
    words = [word for value in sets for word in ("--set", value)]
    return ["pretrain", "--data", w.data / "photos", "--recipe", recipe, "--backbone", name, *words]


def vit(w: World, recipe: str, *sets: str) -> list[object]:
    return convnet(w, "vit_tiny_patch16_224", *sets, recipe=recipe)


def distill(w: World, *more: object) -> list[object]:
    return ["distill", "--data", w.data / "photos", *w.options.distill, *more]


def finetune(w: World, *more: object) -> list[object]:
    return ["finetune", w.story.student, "--data", w.data / "classes", *w.options.finetune, *more]


def convert(w: World, file: object, *more: object) -> list[object]:
    return ["convert", file, "--from", "timm", "--backbone", "vit_tiny_patch16_224", *more]


def export(w: World, *more: object) -> list[object]:
    return ["export", w.story.classifier, *w.options.export, *more]


TEACHER = ("--set", "teacher.backbone=vit_tiny_patch16_224")
# What is wrong: the command, and what its line must say.
CASES: dict[str, tuple[Callable[[World], list[object]], tuple[str, ...]]] = {
    "data that is missing": (
        lambda w: pretrain(w, "--data", w.data / "no-such"),
        ("no-such does not exist", "give a folder"),
    ),
    "data that is empty": (lambda w: pretrain(w, "--data", w.data / "empty"), ("empty", "has no images")),
    "data that is one image": (
        lambda w: pretrain(w, "--data", w.data / "photos" / "00.png"),
        ("00.png is not a data set", "give a folder"),
    ),
    "data whose name is mistyped": (
        lambda w: pretrain(w, "--data", "digit"),
        ("digit does not exist", "did you mean 'digits'?"),
    ),
    "a batch that is larger than the data": (
        lambda w: pretrain(w, "--batch-size", 99),
        ("has 10 images, one batch takes 99", "at most 10"),
    ),
    "one image at a time for a method that mixes them": (
        lambda w: vit(w, "gmml-small", "training.batch_size=4", "training.accumulate=4"),
        ("method 'gmml' puts parts of other images", "a batch of 4 in 4 part(s)", "--batch-size to at least 8"),
    ),
    "one masked patch for a method that compares several": (
        lambda w: vit(w, "selfie-small", "masking.mask_ratio=0.06", "backbone.patch_size=8"),
        ("1 of 16 patches is masked", "compares at least 2", "a larger masking.mask_ratio"),
    ),
    "a number that is none": (
        lambda w: pretrain(w, "--set", "training.base_lr=nan"),
        ("setting 'training.base_lr' must be a finite number; got nan",),
    ),
    "labels that are missing": (
        lambda w: finetune(w, "--data", w.data / "photos"),
        ("needs labels", "photos has none", "one subfolder per class"),
    ),
    "quickstart without labels": (
        lambda w: ["quickstart", "--data", w.data / "photos"],
        ("quickstart needs labels", "one subfolder per class"),
    ),
    "an unknown backbone": (
        lambda w: pretrain(w, "--backbone", "vit_tiny_patch16_225"),
        ("unknown backbone 'vit_tiny_patch16_225'", "did you mean 'vit_tiny_patch16_224'?"),
    ),
    "a backbone that is no transformer": (
        lambda w: ["pretrain", "--data", w.data / "photos", *w.options.short, "--backbone", "resnet18"],
        ("method 'mae' needs", "ResNet can do full, blocks", "spark", "or as backbone a ViT"),
    ),
    "a backbone whose grid does not even suit the masking": (
        lambda w: convnet(w, "test_resnet", recipe="mixedae-small"),
        ("method 'mixedae' needs", "ResNet can do full, blocks, sparse", "spark", "or as backbone a plain ViT"),
    ),
    "a transformer for a method of convnets": (
        lambda w: convnet(w, "vit_tiny_patch16_224", "backbone.img_size=32"),
        ("method 'spark' needs", "VisionTransformer can do full, visible", "mae", "or as backbone a convnet"),
    ),
    "a convnet with a module that sees hidden cells": (
        lambda w: convnet(w, "test_resnet", "preprocess.size=64", "backbone.block_args.attn_layer=eca"),
        ("cannot be run on visible cells alone", ".se' (EcaModule)", "choose another one (ResNet,"),
    ),
    "a convnet whose strides are no powers of two": (
        lambda w: convnet(w, "convnext_atto", "preprocess.size=48", "backbone.patch_size=3"),
        ("ConvNeXt lie at strides 3, 6, 12, 24", "powers of two", "choose another backbone"),
    ),
    "a convnet whose stride does not fit the images": (
        lambda w: convnet(w, "test_resnet", "preprocess.size=72"),
        ("72x72", "32x32 pixels", "ResNet", "choose preprocess.size as a multiple of 32"),
    ),
    "images that are one patch of the backbone": (
        lambda w: convnet(w, "test_resnet"),
        ("an image is one patch of 32x32 pixels", "choose larger images (preprocess.size"),
    ),
    "an unknown method": (
        lambda w: ["pretrain", "--data", w.data / "photos", *w.options.short, "--method", "maee"],
        ("unknown method 'maee'", "did you mean 'mae'?"),
    ),
    "an unknown method of a recipe": (lambda w: pretrain(w, "--set", "method.name=may"), ("unknown method 'may'",)),
    "a method for which there is no teacher": (
        lambda w: pretrain(w, "--method", "dmae"),
        ("method 'dmae' learns from a teacher", "edgemim distill --method dmae --teacher"),
    ),
    "a method that wants no teacher": (
        lambda w: distill(w, "--recipe", "mae-small", "--method", "mae", "--teacher", w.story.teacher),
        ("method 'mae' is no distillation", "edgemim pretrain"),
    ),
    "an unknown masking": (
        lambda w: pretrain(w, "--set", "masking.name=randon"),
        ("unknown masking 'randon'", "did you mean 'random'?"),
    ),
    "an unknown setting": (
        lambda w: pretrain(w, "--set", "masking.mask_ration=0.5"),
        ("unknown setting 'masking.mask_ration'", "did you mean 'mask_ratio'?"),
    ),
    "an unknown table": (
        lambda w: pretrain(w, "--set", "trainng.steps=5"),
        ("unknown setting 'trainng'", "did you mean 'training'?"),
    ),
    "a setting out of its range": (
        lambda w: pretrain(w, "--set", "masking.mask_ratio=1.5"),
        ("masking.mask_ratio must lie in (0, 1)", "got 1.5"),
    ),
    "a setting of another type": (
        lambda w: pretrain(w, "--set", "training.base_lr=fast"),
        ("'training.base_lr' must be of type float", "got 'fast'"),
    ),
    "a setting without a value": (
        lambda w: pretrain(w, "--set", "training.steps"),
        ("--set takes", "got 'training.steps'"),
    ),
    "a value in place of a table": (
        lambda w: pretrain(w, "--set", "method=mae"),
        ("'method' is a table", "got 'mae'"),
    ),
    "an argument that the backbone has not": (
        lambda w: pretrain(w, "--set", "backbone.deepth=3"),
        ("refuses", "deepth"),
    ),
    "patches that do not fill the image": (
        lambda w: pretrain(w, "--set", "backbone.patch_size=7"),
        ("32x32", "7x7", "multiple"),
    ),
    "weights through a backbone's argument": (
        lambda w: pretrain(w, "--set", "backbone.pretrained=true"),
        ("'pretrained' is not an argument of a backbone", "--init or --teacher"),
    ),
    "an unknown recipe": (
        lambda w: pretrain(w, "--recipe", "mae-smal"),
        ("unknown recipe 'mae-smal'", "did you mean 'mae"),
    ),
    "a recipe file that is missing": (lambda w: pretrain(w, "--recipe", "mine.toml"), ("mine.toml does not exist",)),
    "a recipe that is not TOML": (lambda w: pretrain(w, "--recipe", w.odd_toml), ("is not valid TOML", "line 1")),
    "a recipe with a value for a table": (
        lambda w: pretrain(w, "--recipe", w.table_toml, "--backbone", "vit_tinny_patch16_224"),
        ("unknown backbone", "did you mean"),
    ),
    "an --init that is missing": (lambda w: pretrain(w, "--init", "gone"), ("gone does not exist",)),
    "an --init of another backbone": (
        lambda w: pretrain(w, "--init", w.story.teacher, "--backbone", "vit_small_patch16_224"),
        ("holds a vit_tiny_patch16_224", "--backbone says vit_small_patch16_224", "leave one out"),
    ),
    "a teacher for a method that wants none": (
        lambda w: pretrain(w, "--teacher", w.story.teacher),
        ("method 'mae' learns without a teacher", "leave --teacher out"),
    ),
    "a teacher that is no name": (
        lambda w: distill(w, "--teacher", "missing_teacher"),
        ("teacher 'missing_teacher' is neither a folder",),
    ),
    "a teacher's folder that is missing": (
        lambda w: distill(w, "--teacher", w.data / "no-such"),
        ("no-such does not exist; give a folder or weights file that does",),
    ),
    "a teacher's file that is missing": (
        lambda w: distill(w, "--teacher", "gone.pth", *TEACHER),
        ("teacher gone.pth does not exist",),
    ),
    "a teacher's file without its architecture": (
        lambda w: distill(w, "--teacher", w.short_safetensors),
        ("does not say what it is", "--set teacher.backbone=NAME"),
    ),
    "a teacher's folder without a checkpoint": (
        lambda w: distill(w, "--teacher", w.data / "empty"),
        ("is no checkpoint folder", "config.json"),
    ),
    "a teacher's file that is cut off": (
        lambda w: distill(w, "--teacher", w.short_safetensors, *TEACHER),
        ("short.safetensors are damaged",),
    ),
    "a teacher that is cut off": (lambda w: distill(w, "--teacher", w.cut), ("cut/model.safetensors was altered",)),
    "a teacher that was altered": (lambda w: distill(w, "--teacher", w.flipped), ("flipped/model.safetensors was",)),
    "a checkpoint that is missing": (
        lambda w: ["finetune", "gone", "--data", w.data / "classes", *w.options.finetune],
        ("gone does not exist",),
    ),
    "a checkpoint that is cut off": (
        lambda w: ["finetune", w.cut, "--data", w.data / "classes", *w.options.finetune],
        ("cut/model.safetensors was altered", "1000 bytes", "write it again"),
    ),
    "a checkpoint that was altered": (
        lambda w: ["export", w.flipped, *w.options.export],
        ("flipped/model.safetensors was altered", "copy or write it again"),
    ),
    "a bundle in place of a checkpoint": (
        lambda w: ["export", w.story.bundle, *w.options.export],
        ("bundle is a bundle", "a checkpoint is needed"),
    ),
    "a folder that is no artifact": (
        lambda w: ["finetune", w.foreign, "--data", w.data / "classes", *w.options.finetune],
        ("foreign is not an edgemim artifact", "no manifest.json"),
    ),
    "an unknown target": (lambda w: export(w, "--target", "x87"), ("unknown target 'x87'", "did you mean 'x86'?")),
    "an unknown precision": (lambda w: export(w, "--precision", "int4"), ("'fp32', 'float', 'int8'", "got 'int4'")),
    "an unknown gate": (
        lambda w: export(w, "--gate", "p98_ms=1"),
        ("unknown gate 'p98_ms'", "did you mean 'p99_ms'?"),
    ),
    "a gate without a number": (
        lambda w: export(w, "--gate", "p99_ms"),
        ("a gate is NAME=NUMBER, such as p99_ms=8", "got 'p99_ms'"),
    ),
    "calibration images that are missing": (
        lambda w: export(w, "--calibration", w.data / "gone"),
        ("gone does not exist",),
    ),
    "evaluation images of other classes": (
        lambda w: export(w, "--evaluation", w.data / "classes"),
        ("has the classes a, b, the checkpoint 0, 1, 2, 3, 4, ...",),
    ),
    "a bundle that is missing": (lambda w: ["check", "gone"], ("gone does not exist",)),
    "a bundle that was altered": (
        lambda w: ["check", w.spoiled],
        ("spoiled/int8-linear.onnx was altered", "copy or write it again"),
    ),
    "a bundle whose manifest is torn": (lambda w: ["check", w.torn], ("manifest.json is damaged",)),
    "a report in place of a bundle": (
        lambda w: ["check", w.story.report],
        ("report is a report", "a bundle is needed"),
    ),
    "a checkpoint in place of a bundle": (lambda w: ["check", w.story.student], ("a bundle is needed",)),
    "a gate that check does not know": (
        lambda w: ["check", w.story.bundle, "--gate", "p99=8"],
        ("unknown gate 'p99'", "did you mean 'p99_ms'?"),
    ),
    "a backend that check does not know": (
        lambda w: ["check", w.story.bundle, "--backend", "openvin"],
        ("unknown backend 'openvin'", "did you mean 'openvino'?"),
    ),
    "a candidate that the bundle has not": (
        lambda w: ["check", w.story.bundle, "--candidate", "int4"],
        ("int4", "fp32", "int8-linear"),
    ),
    "weights to convert that are missing": (lambda w: convert(w, "gone.pth"), ("gone.pth do not exist",)),
    "weights in an unknown layout": (
        lambda w: ["convert", w.code_pth, "--from", "tim", "--backbone", "vit_tiny_patch16_224"],
        ("unknown layout 'tim' for --from", "did you mean 'timm'?"),
    ),
    "weights without an architecture": (
        lambda w: ["convert", w.story.student / "model.safetensors", "--from", "timm"],
        ("name its architecture with --backbone",),
    ),
    "weights of another shape": (
        lambda w: convert(w, w.story.student / "model.safetensors"),
        ("does not fit VisionTransformer", "missing: "),
    ),
    "a setting that convert has not": (
        lambda w: convert(w, w.story.student / "model.safetensors", "--set", "backbon.depth=2"),
        ("unknown setting 'backbon'", "did you mean 'backbone'?"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_line_and_leaves_nothing(
    case: str, world: World, refused: Callable[..., str], tmp_path: Path
) -> None:
    arguments, expected = CASES[case]
    line = refused(*arguments(world), "--out", tmp_path / "out")
    assert [words for words in expected if words not in line] == [], line


def test_a_file_that_is_not_an_image_is_named_before_training(
    world: World, refused: Callable[..., str], tmp_path: Path
) -> None:
    before = sorted((world.data / "broken").iterdir())
    line = refused(*pretrain(world, "--data", world.data / "broken"), "--out", tmp_path / "out")
    assert "03.png is not an image" in line
    assert "remove or replace it" in line
    assert sorted((world.data / "broken").iterdir()) == before


@pytest.mark.parametrize("file", ["plain_pth", "code_pth"])
@pytest.mark.parametrize("command", ["distill", "convert"])
def test_a_pickle_with_code_is_refused_and_never_run(
    world: World, refused: Callable[..., str], tmp_path: Path, file: str, command: str
) -> None:
    weights = getattr(world, file)
    arguments = convert(world, weights) if command == "convert" else distill(world, "--teacher", weights, *TEACHER)
    line = refused(*arguments, "--out", tmp_path / "out")
    assert "could run code, so they were not loaded" in line
    assert "save its state dict as .safetensors" in line
    assert not (weights.parent / "trapped").exists()
    with open(world.plain_pth, "rb") as stream:
        pickle.load(stream)  # the trap works
    (weights.parent / "trapped").rmdir()


def test_an_unknown_kind_of_plugin_is_refused(refused: Callable[..., str]) -> None:
    line = refused("list", "backbone")
    assert "unknown kind 'backbone'; did you mean 'backbones'?" in line


def test_a_folder_to_inspect_that_is_missing_or_altered(world: World, refused: Callable[..., str]) -> None:
    assert "gone does not exist" in refused("inspect", "gone")
    assert "was altered" in refused("inspect", world.flipped, "--json")
    assert "no manifest.json" in refused("inspect", world.foreign)


EVERY = {
    "pretrain": lambda w: pretrain(w),
    "distill": lambda w: distill(w, "--teacher", w.story.teacher),
    "finetune": lambda w: finetune(w),
    "export": lambda w: export(w),
    "check": lambda w: ["check", w.story.bundle],
    "compare": lambda w: ["compare", f"{w.story.bundle}:fp32", f"{w.story.bundle}:int8-linear"],
    "convert": lambda w: convert(w, w.story.student / "model.safetensors", *w.options.small[:10]),
    "quickstart": lambda w: ["quickstart"],
}


@pytest.mark.parametrize("command", EVERY)
def test_a_folder_that_exists_is_refused_and_a_foreign_one_always(
    world: World, refused: Callable[..., str], command: str
) -> None:
    line = refused(*EVERY[command](world), "--out", world.foreign)
    assert "foreign exists; choose another --out" in line
    line = refused(*EVERY[command](world), "--out", world.foreign, "--overwrite")
    assert "was not written by edgemim" in line
    line = refused(*EVERY[command](world), "--out", world.story.report)
    assert "replace it with --overwrite" in line
    assert (world.foreign / "thesis.tex").read_text("utf-8") == "precious"


@pytest.mark.parametrize(
    ("command", "read"),
    [
        ("distill", "teacher"),
        ("finetune", "student"),
        ("export", "classifier"),
        ("check", "bundle"),
        ("compare", "bundle"),
    ],
)
def test_what_a_command_reads_is_never_what_it_replaces(
    world: World, refused: Callable[..., str], cli: Any, command: str, read: str
) -> None:
    folder = getattr(world.story, read)
    line = refused(*EVERY[command](world), "--out", folder, "--overwrite")
    assert f"would replace {folder}, which this command reads; choose another --out" in line
    assert cli("inspect", folder).code == 0


def test_a_folder_that_holds_the_input_is_not_replaced_either(
    world: World, refused: Callable[..., str], tmp_path: Path, cli: Any
) -> None:
    shutil.copytree(world.story.student, tmp_path / "quick" / "student")
    (tmp_path / "quick" / "quickstart.json").write_text("{}", "utf-8")
    arguments = ["export", tmp_path / "quick" / "student", *world.options.export]
    assert "would replace" in refused(*arguments, "--out", tmp_path / "quick", "--overwrite")


def test_a_path_through_a_file_is_refused(world: World, refused: Callable[..., str]) -> None:
    line = refused(*pretrain(world), "--out", world.code_pth / "run")
    assert "a part of the path is a file; choose another --out" in line


def test_resume_in_a_folder_of_something_else_is_refused(world: World, refused: Callable[..., str]) -> None:
    assert "holds no run to resume" in refused(*pretrain(world), "--out", world.foreign, "--resume")


@pytest.mark.parametrize("other", ["data", "transform"])
def test_what_is_remembered_of_other_images_is_refused_with_its_fingerprint(
    world: World, refused: Callable[..., str], tmp_path: Path, cli: Any, other: str
) -> None:
    shutil.copytree(world.remembers, tmp_path / "run")
    change = {
        "data": ["--data", world.data / "mixed"],
        "transform": ["--set", "preprocess.crop_ratio=0.9"],
    }[other]
    amt = ["--recipe", "amt-small", *world.options.small, *world.options.short]
    arguments = ["pretrain", "--data", world.data / "photos", *amt, *change, "--out", tmp_path / "run", "--resume"]
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    line = refused(*arguments)
    assert {"data": "data_fingerprint was '", "transform": "preprocess.crop_ratio was 1.0, is 0.9"}[other] in line
    line = refused(*arguments, "--accept-changes")
    assert "what is remembered belongs to other images or another transform" in line
    assert re.search(r"\(fingerprint [0-9a-f]{12}, these have [0-9a-f]{12}\); resume with the data and", line)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    assert cli("inspect", tmp_path / "run").code == 0


def test_a_moving_average_without_its_state_is_refused(
    world: World, refused: Callable[..., str], tmp_path: Path, cli: Any
) -> None:
    shutil.copytree(world.story.teacher, tmp_path / "run")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    hpm = ["--recipe", "hpm-small", *world.options.small, *world.options.short, "--steps", "6"]
    arguments = ["pretrain", "--data", "digits", *hpm, "--out", tmp_path / "run", "--resume"]
    assert "was started with other settings: masking." in refused(*arguments)
    line = refused(*arguments, "--accept-changes")
    assert "the state of step 3 does not fit: it holds no moving average of the network (momentum)" in line
    assert "resume with the settings it was saved with, or start anew with --overwrite" in line
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    assert cli("inspect", tmp_path / "run").code == 0


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """`full_disk(name)`: the disk has no room for a file whose name has `name` in it."""

    def fill(name: str) -> None:
        flush = os.fsync

        def fsync(descriptor: int) -> None:
            if name in os.readlink(f"/proc/self/fd/{descriptor}"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            flush(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)

    return fill


@pytest.mark.parametrize("command", ["export", "check", "convert"])
def test_a_full_disk_leaves_nothing_of_an_artifact(
    world: World, refused: Callable[..., str], tmp_path: Path, full_disk: Callable[[str], None], command: str
) -> None:
    more = {"export": ["--precision", "fp32"], "check": [*world.options.check, "--backend", "onnxruntime"]}
    arguments = [*EVERY[command](world), *more.get(command, ())]
    if command == "convert":
        arguments += ["--set", "backbone.img_size=32"]
    full_disk("")
    line = refused(*arguments, "--out", tmp_path / "out")
    assert "the disk is full; free some space or choose another --out" in line


def test_a_full_disk_during_a_run_keeps_its_state_and_no_checkpoint(
    world: World, cli: Any, tmp_path: Path, full_disk: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*pretrain(world), "--out", tmp_path / "run"]
    full_disk("model.safetensors")
    done = cli(*arguments)
    monkeypatch.undo()
    assert (done.code, done.out) == (2, "")
    assert "the disk is full; free some space" in done.err.splitlines()[-1]
    assert "Traceback" not in done.err
    assert not (tmp_path / "run" / "manifest.json").exists()
    assert not list(tmp_path.rglob("*.partial"))
    resumed = cli(*arguments, "--resume", "--json")
    assert resumed.code == 0, resumed.err
    assert cli("inspect", tmp_path / "run").code == 0
