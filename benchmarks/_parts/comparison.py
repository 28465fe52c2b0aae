"""What `methods_cifar10.py` compares: presets, and the stages of each run.

A method's settings are those of its recipe `<name>_small`; what is different here is in `_MASKINGS`, `_VARIANTS`
and the presets, and nowhere else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from edgemim.config import build, load_recipe, merge, recipe_names, resolved
from edgemim.masking import MASKINGS
from edgemim.methods import METHODS
from edgemim.training.finetune import FinetuneSettings
from edgemim.training.settings.run import RunSettings

# To be raised when the benchmark does something else with the same settings: finished runs are then run again.
PROTOCOL = 1
DATA = "cifar10"
TEACHER = "teacher"
BASELINES = ("scratch", "scratch-long", "mae")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Sizes and lengths of a comparison.

    Attributes:
        train_images, test_images: How many, evenly from the classes; 0: all.
        student, teacher: timm name and arguments.
        batch_size: Images per update, everywhere.
        updates: Of each student before fine-tuning.
        finetune_updates: Of each student.
        teacher_updates, teacher_finetune_updates: Of the one teacher.
        ranked: Rows that run with every seed; the others run with the first one. Empty: all rows.
        seeds: The seeds.
    """

    train_images: int = 0
    test_images: int = 0
    student: Mapping[str, Any]
    teacher: Mapping[str, Any]
    batch_size: int
    updates: int
    finetune_updates: int
    teacher_updates: int
    teacher_finetune_updates: int
    ranked: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)


def _vit(*, patch_size: int, embed_dim: int, depth: int, num_heads: int) -> dict[str, Any]:
    shape = {"patch_size": patch_size, "embed_dim": embed_dim, "depth": depth, "num_heads": num_heads}
    return {"name": "vit_tiny_patch16_224", "img_size": 32, **shape}


# Teacher and student have equally many heads, since the first version of MiniLM compares them one to one.
PRESETS = {
    "cpu": Preset(
        train_images=10_000,
        student=_vit(patch_size=8, embed_dim=128, depth=6, num_heads=4),
        teacher=_vit(patch_size=8, embed_dim=192, depth=9, num_heads=4),
        batch_size=64,
        updates=900,
        finetune_updates=600,
        teacher_updates=2700,
        teacher_finetune_updates=600,
        ranked=(*BASELINES, "feature", "dmae"),
    ),
    "gpu": Preset(
        student=_vit(patch_size=4, embed_dim=192, depth=12, num_heads=6),
        teacher=_vit(patch_size=4, embed_dim=384, depth=12, num_heads=6),
        batch_size=256,
        updates=20_000,
        finetune_updates=10_000,
        teacher_updates=40_000,
        teacher_finetune_updates=10_000,
    ),
    "tiny": Preset(
        train_images=80,
        test_images=40,
        student=_vit(patch_size=8, embed_dim=32, depth=2, num_heads=2),
        teacher=_vit(patch_size=8, embed_dim=48, depth=3, num_heads=2),
        batch_size=16,
        updates=4,
        finetune_updates=2,
        teacher_updates=4,
        teacher_finetune_updates=2,
        ranked=("scratch", "mae", "dmae"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One call of `pretrain` or `finetune`, or a checkpoint of fresh weights.

    Attributes:
        kind: `fresh`, `pretrain`, `distill` or `finetune`.
        folder: Where it writes, within the folder of its run.
        settings: Resolved, but for data, `init` and the teacher's source, which are places.
        init: Folder of this run whose checkpoint it goes on from; empty: fresh weights.
        teacher: Folder of the teacher: of this run, or of the run `teacher` where `outside` is true.
        outside: See `teacher`.
        counts: Whether its updates are the student's.
    """

    kind: str
    folder: str
    settings: Mapping[str, Any]
    init: str = ""
    teacher: str = ""
    outside: bool = False
    counts: bool = True

    @property
    def updates(self) -> int:
        return 0 if self.kind == "fresh" else int(self.settings["training"]["steps"])


@dataclass(frozen=True, kw_only=True)
class Run:
    """One row of the comparison with one seed.

    Attributes:
        name: Of the row: a method, `minilm-v1`, a baseline, or `teacher`.
        method: Name in `METHODS`; empty for the baselines without one.
        stages: In this order, each in its folder.
    """

    name: str
    method: str
    seed: int
    stages: tuple[Stage, ...]

    @property
    def needs_teacher(self) -> bool:
        return any(stage.outside for stage in self.stages)

    @property
    def label(self) -> str:
        return f"{self.name} seed {self.seed}"

    @property
    def student_updates(self) -> int:
        return sum(stage.updates for stage in self.stages if stage.counts)

    @property
    def all_updates(self) -> int:
        return sum(stage.updates for stage in self.stages)

    def key(self, data: str, teacher_key: str = "") -> str:
        """What a result belongs to: the same key, the same result.

        Args:
            data: Fingerprint of the images.
            teacher_key: That of the teacher's run.
        """
        facts = {
            "protocol": PROTOCOL,
            "data": data,
            "teacher": teacher_key if self.needs_teacher else "",
            **asdict(self),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class _Variant:
    """A row of a method: what comes after its name, and settings that are not its recipe's."""

    suffix: str = ""
    method: Mapping[str, Any] = field(default_factory=dict)


_VARIANTS: dict[str, tuple[_Variant, ...]] = {
    "minilm": (_Variant(suffix="-v1", method={"version": 1}), _Variant(suffix="-v2", method={"version": 2})),
}


def _masking(name: str, preset: Preset) -> dict[str, Any]:
    """What a masking of a recipe needs to fit the preset's grid: the papers' sizes are for 14 x 14 patches."""
    patch = int(preset.student["patch_size"])
    patches = (int(preset.student["img_size"]) // patch) ** 2
    fitting = {"cells": {"cell": max(8, patch)}, "block": {"min_patches": max(2, round(patches * 16 / 196))}}
    return fitting.get(name, {})


def rows(preset: Preset) -> dict[str, str]:
    """Name of each row to its method (empty: none), baselines first; a method needs a recipe for small images."""
    methods = [
        name for name in METHODS if name not in BASELINES and f"{name.replace('-', '_')}_small" in recipe_names()
    ]
    named = {f"{name}{v.suffix}": name for name in methods for v in _VARIANTS.get(name, (_Variant(),))}
    return {"scratch": "", "scratch-long": "", "mae": "mae", **named}


def is_ranked(row: str, preset: Preset) -> bool:
    """Whether the row runs with every seed."""
    return not preset.ranked or row in preset.ranked


def plan(preset: Preset, *, seeds: tuple[int, ...], only: tuple[str, ...] = ()) -> list[Run]:
    """Every run: the teacher's first, then the ranked rows seed by seed, then the others.

    Args:
        preset: See `PRESETS`.
        seeds: Of the ranked rows; the others take the first one.
        only: Rows to run; empty: all.

    Raises:
        SystemExit: There is no such row.
    """
    known = rows(preset)
    unknown = [name for name in only if name not in known]
    if unknown:
        raise SystemExit(f"--only has {', '.join(unknown)}; the rows are {', '.join(known)}")
    runs = [
        student_run(row, preset, seed)
        for row in known
        if not only or row in only
        for seed in (seeds if is_ranked(row, preset) else seeds[:1])
    ]
    runs.sort(key=lambda run: (not is_ranked(run.name, preset), run.seed))
    return [teacher_run(preset), *runs] if any(run.needs_teacher for run in runs) else runs


def teacher_run(preset: Preset) -> Run:
    """The one teacher: MAE, and its fine-tuned form."""
    pretrained = _pretraining("mae", preset, 0, "pretrained", preset.teacher_updates, backbone=preset.teacher)
    tuned = _finetuning(preset, 0, preset.teacher_finetune_updates, init="pretrained")
    return Run(name=TEACHER, method="mae", seed=0, stages=(pretrained, tuned))


def student_run(row: str, preset: Preset, seed: int) -> Run:
    """The run of a row: the method's updates, then the fine-tuning."""
    method = rows(preset)[row]
    stages = tuple(_student_stages(row, method, preset, seed))
    return Run(name=row, method=method, seed=seed, stages=stages)


def _student_stages(row: str, method: str, preset: Preset, seed: int) -> Iterator[Stage]:
    finetune = preset.finetune_updates
    if not method:
        yield _fresh(preset, seed)
        longer = preset.updates if row == "scratch-long" else 0
        yield _finetuning(preset, seed, finetune + longer, init="fresh")
        return
    if method == "selfdistill":
        yield from _self_distillation(preset, seed)
    else:
        variant = next(v for v in _VARIANTS.get(method, (_Variant(),)) if f"{method}{v.suffix}" == row)
        yield _pretraining(method, preset, seed, "pretrained", preset.updates, own=variant.method)
    yield _finetuning(preset, seed, finetune, init="pretrained")


def _self_distillation(preset: Preset, seed: int) -> Iterator[Stage]:
    """Half of the updates make the original checkpoint; half, from it, the student; its teacher is further MAE."""
    first = preset.updates // 2
    rest = preset.updates - first
    yield _pretraining("mae", preset, seed, "original", first)
    yield _pretraining("mae", preset, seed, "further", rest, init="original", counts=False)
    yield _pretraining("selfdistill", preset, seed, "pretrained", rest, init="original", teacher="further")


def _pretraining(
    method: str,
    preset: Preset,
    seed: int,
    folder: str,
    steps: int,
    *,
    backbone: Mapping[str, Any] | None = None,
    own: Mapping[str, Any] | None = None,
    init: str = "",
    teacher: str = "",
    counts: bool = True,
) -> Stage:
    cls = METHODS.get(method)
    values = merge(load_recipe(f"{method.replace('-', '_')}_small"), _run(preset, seed, steps))
    values |= {
        "backbone": dict(backbone or preset.student),
        "teacher": {},
        "preprocess": load_recipe("mae-small")["preprocess"],
    }
    values["evaluation"] = {"probe": "both", "max_images": 10_000}
    settings = resolved(build(RunSettings, values))
    settings["method"] = {"name": method} | resolved(
        build(cls.Settings, _without_name(values["method"]) | dict(own or {}))
    )
    if cls.masks:
        name = str(values.get("masking", {}).get("name", "random"))
        drawn = _without_name(values.get("masking", {})) | _masking(name, preset)
        settings["masking"] = {"name": name} | resolved(build(MASKINGS.get(name), drawn))
    if cls.needs_teacher and not teacher:
        kind = "finetuned" if cls.teacher_head else "pretrained"
        return Stage(
            kind="distill", folder=folder, settings=settings, init=init, teacher=kind, outside=True, counts=counts
        )
    stage = "distill" if cls.needs_teacher else "pretrain"
    return Stage(kind=stage, folder=folder, settings=settings, init=init, teacher=teacher, counts=counts)


def _finetuning(preset: Preset, seed: int, steps: int, *, init: str) -> Stage:
    values = merge(load_recipe("finetune-small"), _run(preset, seed, steps))
    return Stage(kind="finetune", folder="finetuned", settings=resolved(build(FinetuneSettings, values)), init=init)


def _fresh(preset: Preset, seed: int) -> Stage:
    values = {"seed": seed, "backbone": dict(preset.student), "training": {"steps": 1}}
    values["preprocess"] = load_recipe("mae-small")["preprocess"]
    return Stage(kind="fresh", folder="fresh", settings=resolved(build(RunSettings, values)), counts=False)


def _run(preset: Preset, seed: int, steps: int) -> dict[str, Any]:
    training = {"steps": steps, "epochs": 0.0, "batch_size": preset.batch_size, "picture_steps": steps}
    return {"data": DATA, "seed": seed, "training": training}


def _without_name(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in values.items() if k != "name"}
