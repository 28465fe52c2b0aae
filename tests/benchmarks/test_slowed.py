"""A model slowed by a known share: what is added, and how it is found, by a clock of our own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from _parts import slowed
from _parts.slowed import Shares, SlowedSession, calibrate

MODEL_NS = 30_000_000


class FakeClock:
    """Stands still but for the fake model and the fake hash, which takes 0.6 ns per byte and 20 us besides."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.hashed, self.noise = 0, 0, 1.0
        monkeypatch.setattr(slowed, "time", SimpleNamespace(perf_counter_ns=lambda: self.now))
        monkeypatch.setattr(slowed, "hashlib", SimpleNamespace(sha256=self.hash))

    def hash(self, data: memoryview) -> Any:
        self.now += round(self.noise * 20_000)
        self.update(data)
        return SimpleNamespace(update=self.update)

    def update(self, data: memoryview) -> None:
        self.hashed += len(data)
        self.now += round(self.noise * 0.6 * len(data))


class FakeSession:
    """Takes `MODEL_NS`."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock, self.closed, self.runs = clock, False, 0

    def run(self, inputs: Any) -> Any:
        self.clock.now += MODEL_NS
        self.runs += 1
        return inputs

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    return FakeClock(monkeypatch)


def fake_choice(clock: FakeClock, sessions: list[FakeSession]) -> Any:
    def opened(engine: Any) -> FakeSession:
        sessions.append(FakeSession(clock))
        return sessions[-1]

    backend = SimpleNamespace(compile=lambda *arguments: None, open=opened)
    golden = [({"x": np.zeros(1)}, {}), ({"x": np.ones(1)}, {})]
    bundle = SimpleNamespace(golden_batches=lambda: iter(golden), artifact=SimpleNamespace(path=Path()))
    return SimpleNamespace(bundle=bundle, pair=SimpleNamespace(backend=backend, candidate=None), threads=1)


def test_every_run_is_followed_by_the_work_and_both_are_written_down(clock: FakeClock) -> None:
    shares, inputs = Shares(), {"x": np.zeros(1)}
    session = SlowedSession(FakeSession(clock), 2_000_000, shares)  # type: ignore[arg-type]
    assert session.run(inputs) is inputs
    session.run(inputs)
    assert clock.hashed == 2 * 2_000_000
    # 20 us and 1.2 ms; every block is rounded to whole nanoseconds.
    assert list(shares.work_ns) == pytest.approx([1_220_000] * 2, abs=150)
    assert clock.now == sum(shares.work_ns) + 2 * MODEL_NS
    assert shares.median() == pytest.approx(1_220_000 / MODEL_NS, rel=2e-4)


def test_the_bytes_are_found_that_take_the_share(clock: FakeClock) -> None:
    sessions: list[FakeSession] = []
    found = calibrate(fake_choice(clock, sessions), 0.05, pairs=5)
    assert found.share == pytest.approx(0.05, rel=0.03)
    assert found.hashed_bytes == pytest.approx((0.05 * MODEL_NS - 20_000) / 0.6, rel=0.03)
    assert found.pairs == 20
    assert [session.runs for session in sessions] == [5, 10, 20]
    assert [session.closed for session in sessions] == [True] * 3


def test_a_machine_that_gives_another_share_each_time_is_told(clock: FakeClock) -> None:
    class FakeRestless(list[FakeSession]):
        def append(self, session: FakeSession) -> None:
            clock.noise = 1.5 - clock.noise / 2 if len(self) % 2 else 2.0
            super().append(session)

    with pytest.raises(SystemExit, match=r"the work took .*% of the model's time, not 5%: .*not quiet enough"):
        calibrate(fake_choice(clock, FakeRestless()), 0.05, pairs=5)
