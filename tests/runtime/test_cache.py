"""`edgemim.runtime.cache`: built once per set of facts, built again when damaged or cut off."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from edgemim.errors import ConfigError, DeviceError, OutputError
from edgemim.runtime import cache
from edgemim.runtime.cache import cached_build, default_cache, engine_key, the_only_check

FACTS = {"backend": "fake", "version": "1.0", "model": "abc", "device": {"cpu": "x"}, "options": {"threads": 2}}


class Builder:
    def __init__(self) -> None:
        self.builds = 0

    def __call__(self, folder: Path) -> None:
        self.builds += 1
        (folder / "model.blob").write_bytes(b"engine")


def test_the_second_time_it_is_there(tmp_path: Path) -> None:
    build, ticks = Builder(), iter([10.0, 13.5])
    first = cached_build(tmp_path, FACTS, build, clock=lambda: next(ticks))
    second = cached_build(tmp_path, FACTS, build)
    assert (first.cached, second.cached, build.builds) == (False, True, 1)
    assert first.seconds == second.seconds == 3.5
    assert first.folder == second.folder
    sidecar = json.loads((first.folder / "engine.json").read_text())
    assert sidecar["facts"] == FACTS
    assert list(sidecar["files"]) == ["model.blob"]


def test_what_was_observed_after_building_is_kept_and_not_part_of_the_seconds(tmp_path: Path) -> None:
    ticks = iter([10.0, 13.5])

    def observe(built: None) -> dict[str, float]:
        assert next(ticks, None) is None, "the clock of the build still runs"
        return {"first_ms": 7.5}

    clock = lambda: next(ticks)  # noqa: E731
    first = cached_build(tmp_path, FACTS, Builder(), observe=observe, clock=clock)
    second = cached_build(tmp_path, FACTS, Builder(), observe=observe)
    assert dict(first.observed) == dict(second.observed) == {"first_ms": 7.5}
    assert first.seconds == 3.5


@pytest.mark.parametrize("key", FACTS)
def test_another_fact_is_another_engine(tmp_path: Path, key: str) -> None:
    assert engine_key(FACTS) != engine_key({**FACTS, key: "other"})
    assert engine_key(FACTS) == engine_key(dict(reversed(FACTS.items())))


@pytest.mark.parametrize("damage", ["altered", "missing", "no sidecar", "half a sidecar", "a list", "other facts"])
def test_a_damaged_engine_is_built_again(tmp_path: Path, damage: str) -> None:
    build = Builder()
    folder = cached_build(tmp_path, FACTS, build).folder
    blob, sidecar = folder / "model.blob", folder / "engine.json"
    if damage == "altered":
        blob.write_bytes(b"enginf")
    elif damage == "missing":
        blob.unlink()
    elif damage == "no sidecar":
        sidecar.unlink()
    elif damage == "half a sidecar":
        sidecar.write_bytes(sidecar.read_bytes()[:40])
    elif damage == "a list":
        sidecar.write_text("[]")
    else:
        sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "facts": {}}))
    assert not cached_build(tmp_path, FACTS, build).cached
    assert build.builds == 2
    assert blob.read_bytes() == b"engine"


def test_a_build_that_fails_leaves_nothing_that_would_be_used(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "model.blob").write_bytes(b"half")
        raise DeviceError("out of memory")

    with pytest.raises(DeviceError, match="out of memory"):
        cached_build(tmp_path, FACTS, fail)
    build = Builder()
    assert not cached_build(tmp_path, FACTS, build).cached
    assert build.builds == 1


def test_two_at_once_build_one_engine(tmp_path: Path) -> None:
    build, inside = Builder(), threading.Event()

    def slow(folder: Path) -> None:
        inside.set()
        time.sleep(0.2)
        build(folder)

    other = threading.Thread(target=cached_build, args=(tmp_path, FACTS, slow))
    other.start()
    inside.wait(10)
    assert cached_build(tmp_path, FACTS, slow).cached
    other.join()
    assert build.builds == 1


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="a part of the path is a file"):
        cached_build(tmp_path / "file", FACTS, Builder())


def test_a_second_check_is_refused_while_one_is_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_PATIENCE_S", 0)
    with (
        the_only_check(tmp_path / "new"),
        pytest.raises(ConfigError, match="another check is running on this device"),
        the_only_check(tmp_path / "new"),
    ):
        pass
    with the_only_check(tmp_path / "new"):
        pass


def test_a_check_that_is_about_to_end_is_waited_for(tmp_path: Path) -> None:
    inside, ended = threading.Event(), []

    def first() -> None:
        with the_only_check(tmp_path):
            inside.set()
            time.sleep(0.2)
            ended.append(True)

    other = threading.Thread(target=first)
    other.start()
    inside.wait(10)
    with the_only_check(tmp_path):
        assert ended
    other.join()


def test_a_check_that_failed_leaves_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_PATIENCE_S", 0)
    with pytest.raises(RuntimeError, match="out"), the_only_check(tmp_path):
        raise RuntimeError("out")
    with the_only_check(tmp_path):
        pass


def test_a_place_for_the_lock_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="a part of the path is a file"), the_only_check(tmp_path / "file"):
        pass


def test_the_default_is_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if os.name == "posix" and os.uname().sysname == "Linux":
        assert default_cache() == tmp_path / "edgemim" / "engines"
    assert default_cache().name == "engines"
