"""The command line called in process, and one whole story on digits that the tests look at."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgemim.cli import build_app

# A backbone of 32,000 parameters on 16 patches: every stage of it takes a second or less.
BACKBONE = ("embed_dim=32", "depth=2", "num_heads=2", "patch_size=8", "img_size=32")
SMALL = [word for value in BACKBONE for word in ("--set", f"backbone.{value}")]
SMALL += ["--set", "method.decoder_width=32", "--set", "method.decoder_depth=1"]
SHORT = ["--steps", "3", "--batch-size", "4"]
QUICK_CHECK = ["--runs", "10", "--seconds", "0.01", "--no-page"]


@dataclass(frozen=True)
class Done:
    """What a command left behind: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout, which must be JSON and nothing else."""
        return json.loads(self.out)


Cli = Callable[..., Done]


def run(*arguments: object) -> Done:
    """Call `edgemim` in this process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            build_app()(args=[str(a) for a in arguments], prog_name="edgemim")
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Done(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session", autouse=True)
def private_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Every cache (decoded images, engines, datasets) in a folder of this session."""
    folder = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.setenv("HF_HOME", str(folder / "hf"))
        yield folder


@pytest.fixture(scope="session")
def cli() -> Cli:
    """`cli("pretrain", "--out", ...)` runs the command in process."""
    return run


@pytest.fixture(scope="session")
def options() -> SimpleNamespace:
    """Lists of options that keep a run small."""
    pretrain = ["--recipe", "mae-small", *SMALL, *SHORT]
    return SimpleNamespace(
        small=SMALL,
        short=SHORT,
        pretrain=pretrain,
        distill=["--recipe", "dmae-small", *SMALL, *SHORT],
        finetune=["--recipe", "finetune-small", *SHORT],
        export=["--target", "x86", "--calibration-count", "8", "--evaluation-count", "20"],
        check=QUICK_CHECK,
    )


def draw(path: Path, seed: int, *, size: tuple[int, int] = (40, 34), mode: str = "RGB") -> None:
    """A PNG of seeded noise; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).convert(mode).save(path)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of images: `photos` (12, no labels), `classes` (2 of 8), `mixed` modes and sizes, `broken`, `empty`."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "empty").mkdir()
    modes = ("RGB", "L", "RGBA", "P", "1", "LA", "CMYK")
    for i in range(12):
        draw(folder / "photos" / f"{i:02}.png", i)
        suffix = "jpg" if modes[i % 7] == "CMYK" else "png"
        draw(folder / "mixed" / f"{i:02}.{suffix}", i, size=(10 + 9 * i, 120 - 8 * i), mode=modes[i % 7])
    for i in range(16):
        draw(folder / "classes" / "ab"[i % 2] / f"{i:02}.png", i)
    shutil.copytree(folder / "photos", folder / "broken")
    for name in ("03.png", "07.png"):
        (folder / "broken" / name).write_text("this is no image")
    return folder


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory, cli: Cli, options: SimpleNamespace) -> SimpleNamespace:
    """The five commands from images to a report, on digits; what each left behind, by its name."""
    folder = tmp_path_factory.mktemp("story")
    at = {name: folder / name for name in ("teacher", "student", "classifier", "bundle", "report")}
    commands = {
        "pretrain": ["--data", "digits", *options.pretrain, "--out", at["teacher"]],
        "distill": ["--data", "digits", *options.distill, "--teacher", at["teacher"], "--out", at["student"]],
        "finetune": [at["student"], "--data", "digits", *options.finetune, "--out", at["classifier"]],
        "export": [at["classifier"], *options.export, "--gate", "top1.max_drop=0.9", "--out", at["bundle"]],
        "check": [at["bundle"], *options.check, "--out", at["report"]],
    }
    done = {}
    for name, arguments in commands.items():
        done[name] = cli(name, *arguments, "--json")
        assert done[name].code == 0, done[name].err
    return SimpleNamespace(folder=folder, **at, **{f"{name}_done": result for name, result in done.items()})
