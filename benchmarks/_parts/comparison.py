"""What `methods_cifar10.py` compares: the rows, the stages of each run, and the order of the runs.

A method's settings are those of its recipe `<name>_small`; what is different here is in `_masking`, `_VARIANTS`,
`_paced` and the presets, and nowhere else.
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

from .presets import BASELINES, CONVNET_BASELINES, SIZE, Preset

# To be raised when the benchmark does something else with the same settings: finished runs are then run again.
PROTOCOL = 1
DATA = "cifar10"
TEACHER = "teacher"
# What the name of a row ends in that gets the time of the updates of MAE, or of SparK, instead of their number.
TIMED = "-timed"
# Updates of HPM's published run: 200 epochs of ImageNet in batches of 2,048.
_HPM_UPDATES = 125_114


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
        row: A method, `minilm-v1`, a baseline, or `teacher`.
        method: Name in `METHODS`; empty for the baselines without one.
        stages: In this order, each in its folder.
        in_time: Updates of the method that take as long as those of MAE, or of SparK; 0: as many as the preset says.
    """

    row: str
    method: str
    seed: int
    stages: tuple[Stage, ...]
    in_time: int = 0

    @property
    def name(self) -> str:
        """Of the row as the results have it."""
        return f"{self.row}{TIMED}" if self.in_time else self.row

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


def _paced(method: str, preset: Preset) -> dict[str, Any]:
    """Settings that are counted in epochs or updates, at the same share of a run as in the paper's.

    A run in the time of another's updates keeps them as they are: what comes every so many epochs then costs the same
    per update in both.
    """
    if method == "amt":  # the first look at all images after 40 of 400 epochs, and one after every 40 more
        return dict.fromkeys(("first_epoch", "refresh_epochs"), round(preset.epochs / 10, 6))
    if method == "hpm":  # the decay grows in 100 of 200 epochs, and the copy forgets in the same share of the updates
        faster = _HPM_UPDATES / preset.updates
        decays = {"ema_decay": 0.999, "ema_decay_end": 0.9999}
        own = {name: round(max(0.0, 1 - faster * (1 - decay)), 6) for name, decay in decays.items()}
        return own | {"ema_epochs": round(preset.epochs / 2, 6)}
    return {}


def _masking(name: str, preset: Preset) -> dict[str, Any]:
    """What a masking of a recipe needs to fit the preset's grid: the papers' sizes are for 14 x 14 patches."""
    patch = int(preset.student["patch_size"])
    patches = (SIZE // patch) ** 2
    fitting = {"cells": {"cell": max(8, patch)}, "block": {"min_patches": max(2, round(patches * 16 / 196))}}
    return fitting.get(name, {})


def rows() -> dict[str, str]:
    """Name of each row to its method (empty: none); those of ViTs, then those of convnets, baselines first.

    A method needs a recipe for small images.
    """
    recipes = recipe_names()
    methods = [name for name in METHODS if name not in BASELINES and f"{name.replace('-', '_')}_small" in recipes]
    named = {f"{name}{v.suffix}": name for name in methods for v in _VARIANTS.get(name, (_Variant(),))}
    vits = {row: name for row, name in named.items() if not _takes_convnets(name)}
    convnets = {row: name for row, name in named.items() if _takes_convnets(name)}
    baselines = {row: row if row in METHODS else "" for row in BASELINES}
    return {**baselines, **vits, **dict.fromkeys(CONVNET_BASELINES, ""), **convnets}


def is_convnet(row: str) -> bool:
    """Whether the row's student is a convnet, which is not held against ViTs; the row may be one in time."""
    row = row.removesuffix(TIMED)
    return row in CONVNET_BASELINES or (row in METHODS and _takes_convnets(row))


def is_ranked(row: str, preset: Preset) -> bool:
    """Whether the row runs with every seed."""
    return not preset.ranked or row in preset.ranked


def plan(
    preset: Preset, *, seeds: tuple[int, ...], only: tuple[str, ...] = (), in_time: Mapping[str, int] | None = None
) -> list[Run]:
    """Every run, so ordered that what is done early is of use by itself.

    The teacher's first, then all seeds of one row after the other: ranked baselines, other ranked rows, those in the
    time of another's updates; then the rows with one seed.

    Args:
        preset: See `PRESETS`.
        seeds: Of the ranked rows; the others take the first one.
        only: Rows to run; empty: all.
        in_time: Rows that are run in the time of another's updates too, and the number of their own.

    Raises:
        SystemExit: There is no such row.
    """
    timed = {f"{row}{TIMED}": updates for row, updates in (in_time or {}).items()}
    known = [*sorted(rows(), key=lambda row: _order(row, preset)), *timed]
    unknown = [name for name in only if name not in known]
    if unknown:
        more = "" if in_time else f"; those that end in {TIMED} need --timed"
        raise SystemExit(f"--only has {', '.join(unknown)}; the rows are {', '.join(known)}{more}")
    wanted = [name for name in known if not only or name in only]
    first = [name for name in wanted if name in timed or is_ranked(name, preset)]
    last = [name for name in wanted if name not in first]
    runs = [
        student_run(name.removesuffix(TIMED), preset, seed, in_time=timed.get(name, 0))
        for names, taken in ((first, seeds), (last, seeds[:1]))
        for name in names
        for seed in taken
    ]
    return [teacher_run(preset), *runs] if any(run.needs_teacher for run in runs) else runs


def teacher_run(preset: Preset) -> Run:
    """The one teacher: MAE, and its fine-tuned form."""
    pretrained = _pretraining("mae", preset, 0, "pretrained", preset.teacher_updates, backbone=preset.teacher)
    tuned = _finetuning(preset, 0, preset.teacher_finetune_updates, init="pretrained")
    return Run(row=TEACHER, method="mae", seed=0, stages=(pretrained, tuned))


def student_run(row: str, preset: Preset, seed: int, *, in_time: int = 0) -> Run:
    """The run of a row: the method's updates, then the fine-tuning.

    Args:
        row: See `rows`.
        preset: Sizes and lengths.
        seed: Of everything in it.
        in_time: Updates of the method, where they are not as many as the preset says.
    """
    method = rows()[row]
    stages = tuple(_student_stages(row, method, preset, seed, in_time or preset.updates))
    return Run(row=row, method=method, seed=seed, stages=stages, in_time=in_time)


def _order(row: str, preset: Preset) -> tuple[bool, bool]:
    """Baselines before methods, where both are ranked or both are not."""
    return not is_ranked(row, preset), row not in (*BASELINES, *CONVNET_BASELINES)


def _takes_convnets(method: str) -> bool:
    return "sparse" in METHODS.get(method).student_needs


def _student_stages(row: str, method: str, preset: Preset, seed: int, updates: int) -> Iterator[Stage]:
    finetune = preset.finetune_updates
    if not method:
        yield _fresh(preset, seed, _student(row, preset))
        longer = updates if row.startswith("scratch-long") else 0
        yield _finetuning(preset, seed, finetune + longer, init="fresh")
        return
    if method == "selfdistill":
        yield from _self_distillation(preset, seed, updates)
    else:
        variant = next(v for v in _VARIANTS.get(method, (_Variant(),)) if f"{method}{v.suffix}" == row)
        own = _paced(method, preset) | dict(variant.method)
        student = _student(row, preset)
        yield _pretraining(method, preset, seed, "pretrained", updates, backbone=student, own=own)
    yield _finetuning(preset, seed, finetune, init="pretrained")


def _self_distillation(preset: Preset, seed: int, updates: int) -> Iterator[Stage]:
    """Half of the updates make the original checkpoint; half, from it, the student; its teacher is further MAE."""
    first = updates // 2
    rest = updates - first
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
    cls, shape = METHODS.get(method), dict(backbone or preset.student)
    values = merge(load_recipe(f"{method.replace('-', '_')}_small"), _run(preset, seed, steps))
    values |= {"backbone": shape, "teacher": {}, "preprocess": _contract(shape)}
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


def _fresh(preset: Preset, seed: int, shape: Mapping[str, Any]) -> Stage:
    values = {"seed": seed, "backbone": dict(shape), "training": {"steps": 1}, "preprocess": _contract(shape)}
    return Stage(kind="fresh", folder="fresh", settings=resolved(build(RunSettings, values)), counts=False)


def _student(row: str, preset: Preset) -> Mapping[str, Any]:
    return preset.convnet if is_convnet(row) else preset.student


def _contract(shape: Mapping[str, Any]) -> dict[str, Any]:
    """One preprocessing for all; a convnet, which takes images of any size, has to be told theirs."""
    contract: dict[str, Any] = load_recipe("mae-small")["preprocess"]
    return contract if "img_size" in shape else contract | {"size": SIZE}


def _run(preset: Preset, seed: int, steps: int) -> dict[str, Any]:
    lengths = {"steps": steps, "epochs": 0.0, "picture_steps": steps}
    training = {**lengths, "batch_size": preset.batch_size, "precision": preset.precision}
    return {"data": DATA, "seed": seed, "training": training}


def _without_name(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in values.items() if k != "name"}
