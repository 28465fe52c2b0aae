"""The folder of a run: locked, ours or refused, cleared only when everything else is right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgemim.errors import OutputError, TrainingError
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


def test_a_run_may_be_resumed_with_other_workers(run_settings: MakeSettings) -> None:
    values = identity(run_settings(), "aaaa")
    assert "workers" not in values["training"]
    assert "batch_size" in values["training"]
