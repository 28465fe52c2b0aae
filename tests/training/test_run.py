"""The folder of a run: locked, ours or refused, cleared only when everything else is right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgemim.errors import OutputError, TrainingError
from edgemim.training import run as module
from edgemim.training.loop.launch import Launch
from edgemim.training.loop.processes import Team
from edgemim.training.run import identity, is_finished, run_folder
from edgemim.training.settings.run import RunSettings

MakeSettings = Callable[..., RunSettings]


def test_a_second_run_in_the_same_folder_is_refused_and_a_third_too(tmp_path: Path, run_settings: MakeSettings) -> None:
    settings = run_settings()
    with run_folder(tmp_path / "out", settings, resume=False, overwrite=False):
        for _ in range(2):
            with (
                pytest.raises(OutputError, match=r"another run is writing .*out; wait for it or choose another --out"),
                run_folder(tmp_path / "out", settings, resume=True, overwrite=False),
            ):
                pass
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    with run_folder(tmp_path / "out", settings, resume=True, overwrite=False):
        pass


def test_an_error_inside_frees_the_folder(tmp_path: Path, run_settings: MakeSettings) -> None:
    with pytest.raises(KeyError), run_folder(tmp_path / "out", run_settings(), resume=False, overwrite=False):
        raise KeyError
    with run_folder(tmp_path / "out", run_settings(), resume=True, overwrite=False):
        pass


def test_an_existing_folder_is_refused_without_a_word_from_the_user(tmp_path: Path, run_settings: MakeSettings) -> None:
    with run_folder(tmp_path / "out", run_settings(), resume=False, overwrite=False) as run:
        (run / "result").write_text("mine")
    with (
        pytest.raises(OutputError, match="exists; choose another --out, or replace it with --overwrite"),
        run_folder(tmp_path / "out", run_settings(), resume=False, overwrite=False),
    ):
        pass
    assert (tmp_path / "out" / "result").read_text() == "mine"
    with run_folder(tmp_path / "out", run_settings(), resume=False, overwrite=True):
        assert not (tmp_path / "out" / "result").exists()


@pytest.mark.parametrize("flags", [{"overwrite": True}, {"resume": True}])
def test_a_folder_that_is_not_ours_is_left_alone(
    tmp_path: Path, run_settings: MakeSettings, flags: dict[str, bool]
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("a cat")
    (tmp_path / "photos" / "manifest.json").write_text("{}") if "resume" in flags else None
    before = sorted(tmp_path.rglob("*"))
    with (
        pytest.raises(OutputError, match=r"was not written by edgemim|holds no run to resume"),
        run_folder(tmp_path / "photos", run_settings(), **{"resume": False, "overwrite": False, **flags}),
    ):
        pass
    assert sorted(tmp_path.rglob("*")) == before


def test_resume_starts_what_was_never_started(tmp_path: Path, run_settings: MakeSettings) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "killed" / "last").mkdir(parents=True)  # killed before it had written its settings
    for name in ("new", "empty", "killed"):
        with run_folder(tmp_path / name, run_settings(), resume=True, overwrite=False) as run:
            assert (run / "last" / "settings.json").is_file()


def test_resume_with_other_settings_names_them(tmp_path: Path, run_settings: MakeSettings) -> None:
    with run_folder(tmp_path / "out", run_settings(), resume=False, overwrite=False):
        pass
    other = run_settings(seed=3, training={"batch_size": 4})
    with (
        pytest.raises(TrainingError, match=r"seed was 0, is 3; training\.batch_size was 8, is 4"),
        run_folder(tmp_path / "out", other, resume=True, overwrite=False),
    ):
        pass


def test_a_run_is_finished_when_it_has_its_manifest(tmp_path: Path, run_settings: MakeSettings) -> None:
    with run_folder(tmp_path / "out", run_settings(), resume=False, overwrite=False) as run:
        assert not is_finished(run)
        (run / "manifest.json").write_text("{}")
        assert is_finished(run)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").write_text("{}")
    assert not is_finished(tmp_path / "other")


def test_a_path_through_a_file_is_one_line(tmp_path: Path, run_settings: MakeSettings) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OutputError, match="a part of the path is a file; choose another --out"),
        run_folder(tmp_path / "file" / "out", run_settings(), resume=False, overwrite=False),
    ):
        pass


def test_other_images_under_the_same_name_are_not_resumed_on(tmp_path: Path, run_settings: MakeSettings) -> None:
    with run_folder(tmp_path / "out", run_settings(), data="aaaa", resume=False, overwrite=False):
        pass
    with (
        pytest.raises(TrainingError, match="data_fingerprint was 'aaaa', is 'bbbb'"),
        run_folder(tmp_path / "out", run_settings(), data="bbbb", resume=True, overwrite=False),
    ):
        pass


def test_a_run_may_be_resumed_by_other_processes_that_divide_a_batch_equally(run_settings: MakeSettings) -> None:
    def parts(count: int, accumulate: int) -> dict[str, Any]:
        return identity(run_settings(training={"accumulate": accumulate}), "aaaa", Team(launch=Launch(count=count)))

    assert parts(4, 1) == parts(2, 2) == parts(1, 4)
    assert parts(4, 1) != parts(2, 1)


def test_a_run_may_be_resumed_with_other_workers(run_settings: MakeSettings) -> None:
    values = identity(run_settings(), "aaaa")
    assert "workers" not in values["training"]
    assert "batch_size" in values["training"]


@pytest.mark.parametrize("removed", range(6))
def test_a_kill_while_an_old_run_is_cleared_leaves_a_folder_that_can_be_cleared(
    tmp_path: Path, run_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, removed: int
) -> None:
    out = tmp_path / "out"
    with run_folder(out, run_settings(), resume=False, overwrite=False) as run:
        for name in ("kept/a", "best/b", f"last/step-000000001-{'0' * 16}.ckpt", "model.safetensors", "manifest.json"):
            (run / name).parent.mkdir(exist_ok=True)
            (run / name).write_text("old")
    left = [removed]

    def killed_after(remove: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any, **options: Any) -> None:
            if str(arguments[0]).startswith(str(out)):
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
            remove(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed_after(Path.unlink))
        patch.setattr(module.shutil, "rmtree", killed_after(module.shutil.rmtree))
        with (
            pytest.raises(KeyboardInterrupt),
            run_folder(out, run_settings(seed=1), resume=False, overwrite=True),
        ):
            pass
    # A state of the old run never lies there without the settings that it belongs to.
    assert (out / "last" / "settings.json").is_file() or not list((out / "last").glob("*.ckpt"))
    with run_folder(out, run_settings(seed=1), resume=False, overwrite=True) as run:
        assert [p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file()] == ["last/settings.json"]
