"""Find the fastest model that keeps a budget, by measuring on the machine that runs this.

1. calibrate once; the float flavours and every placement's INT8 form are measured side by side
2. INT8 hopeless here: stop, and say by how much
3. a fast placement outside the budget: units are given back to float, the worst first
4. an INT8 form inside the budget: each kind of layer is given back in turn, which some CPUs reward
5. what is on the front, and the plain placements for other machines, go into one artifact

Every round is a `check` of a scratch bundle; a round that is done is not measured again when the search goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemim.artifact import Artifact
from edgemim.quantize.calibration import Calibration
from edgemim.quantize.flavour import NewFlavour
from edgemim.quantize.quantizers.ptq import PTQ, make_flavours
from edgemim.quantize.search.mixes import Mix, accuracy_mixes, hopeless, kind_mixes
from edgemim.quantize.search.pareto import pareto_front
from edgemim.quantize.search.rounds import Bench, Progress, Round, measure_round
from edgemim.quantize.sensitivity import Sensitivity, measure_sensitivity

Row = Mapping[str, Any]
Say = Callable[[str], None]

_SENSITIVITY_IMAGES = 16
CALIBRATION_STATE = "calibration.npz"


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search came to.

    Attributes:
        artifact: `onnx` artifact with the flavours that are worth shipping.
        rows: One per candidate and backend that was measured, as in a report of `check`.
        front: Those of them on the front, fastest first.
        tried: How many candidates were measured.
        notes: What was not tried, and why, one sentence each.
        sensitivity: By placement, where it was measured.
    """

    artifact: Artifact
    rows: tuple[Row, ...]
    front: tuple[Row, ...]
    tried: int
    notes: tuple[str, ...]
    sensitivity: Mapping[str, Sensitivity]


def search(
    source: Artifact,
    out: Path,
    batches: Calibration,
    quantizer: PTQ,
    bench: Bench,
    *,
    minutes: float,
    say: Say,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.monotonic,
    overwrite: bool = False,
) -> Found:
    """Search.

    Args:
        source: `onnx` artifact with the float flavours.
        out: Folder of the artifact that is found.
        batches: Calibration images.
        quantizer: Whose placements are tried.
        bench: Budget and machine.
        minutes: No round is begun that would end after so many; the first one always runs.
        say: Called with a line for the user when a round ends.
        progress: Called with (steps done, steps in all) of the running round.
        overwrite: Replace an artifact that lies at `out`.

    Raises:
        EdgemimError: No placement finds anything in this model.
        DeviceError: No candidate could be run.
    """
    return _Search(source, out, batches, quantizer, bench, minutes, say, progress, clock, overwrite).run()


@dataclass(kw_only=False)
class _Search:
    source: Artifact
    out: Path
    batches: Calibration
    quantizer: PTQ
    bench: Bench
    minutes: float
    say: Say
    progress: Progress | None
    clock: Callable[[], float]
    overwrite: bool
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    sensitivity: dict[str, Sensitivity] = field(default_factory=dict)
    mix_of: dict[str, Mix] = field(default_factory=dict)
    seconds_per_row: float = 0.0
    rows_per_mix: float = 1.0
    float_rows: int = 0

    def run(self) -> Found:
        self.started = self.clock()
        self.prepared = self.quantizer.prepare(
            self.source,
            self.batches,
            self.bench.target,
            state=self.bench.folder / CALIBRATION_STATE,
            say=self.say,
            progress=self.progress,
        )
        base = [Mix(name=f"int8-{name}", recipe=recipe) for name, recipe in self.prepared.recipes.items()]
        self.made = {mix.name: mix for mix in base}
        first = self._round(base)
        trouble = hopeless(first.rows)
        if trouble is not None:
            self._note(f"no mixes were tried: {trouble}")
        else:
            self._relax()
            self._speed_up()
        return self._result([mix.name for mix in base])

    def _relax(self) -> None:
        """Mixes of the placements that are faster than anything inside the budget, but outside of it themselves."""
        right = [row for row in self.rows if row["passed"]]
        limit = min((float(row["latency"]["p50_ms"]) for row in right), default=float("inf"))
        for name, recipe in self.prepared.recipes.items():
            own = [row for row in self.rows if self._name_of(row) == f"int8-{name}" and row["latency"] is not None]
            quickest = min((float(row["latency"]["p50_ms"]) for row in own), default=float("inf"))
            if any(row["passed"] for row in own) or not quickest < limit:
                continue
            mixes = accuracy_mixes(name, recipe, self._sensitivity_of(name))
            self._try(mixes, f"{name} with its worst layers in float")

    def _speed_up(self) -> None:
        """Mixes of the fastest INT8 form inside the budget."""
        right = [row for row in self.rows if row["passed"] and self._name_of(row)]
        if not right:
            return
        mix = self.made[self._name_of(min(right, key=lambda row: float(row["latency"]["p50_ms"])))]
        units = self.prepared.placed[mix.recipe.placement].units
        self._try(kind_mixes(mix.name, mix.recipe, units), f"{mix.name} with one kind of layer in float")

    def _try(self, mixes: Sequence[Mix], what: str) -> None:
        if not mixes:
            return
        left = self.minutes * 60 - (self.clock() - self.started)
        fitting = list(mixes)[: self._how_many_in(left)]
        if len(fitting) < len(mixes):
            dropped = len(mixes) - len(fitting)
            self._note(
                f"{dropped} of {len(mixes)} mixes ({what}) were not tried: the {self.minutes:g} minutes are over"
            )
        if fitting:
            self._round(fitting)

    def _how_many_in(self, seconds: float) -> int:
        """How many mixes a round of so many seconds has room for, as fast as the last one, floats beside them."""
        rows = seconds / max(self.seconds_per_row, 1e-9) - self.float_rows
        return max(0, int(rows / self.rows_per_mix))

    def _name_of(self, row: Row) -> str:
        """Of the mix that a row was measured with, in whichever of its forms; empty for a float one."""
        mix = self.mix_of.get(str(row["file"]))
        return "" if mix is None else mix.name

    def _round(self, mixes: Sequence[Mix]) -> Round:
        """Measure mixes, and the float candidates beside them."""
        self.made |= {mix.name: mix for mix in mixes}
        artifact = self._write(self._flavours(mixes), self.bench.folder / f"flavours-{len(self.rows)}", overwrite=True)
        done = measure_round(self.bench, artifact, self.progress)
        known = {(row["name"], row["backend"]) for row in self.rows}
        new = [row for row in done.rows if (row["name"], row["backend"]) not in known]
        self.rows += new
        self.seconds_per_row = done.seconds / max(1, len(done.rows))
        self.float_rows = sum(not self._name_of(row) for row in done.rows)
        self.rows_per_mix = max(1.0, (len(done.rows) - self.float_rows) / len(mixes))
        kept = "taken from an earlier call" if done.kept else f"{done.seconds:.0f} s"
        self.say(f"measured {len(new)} candidates ({kept}): {', '.join(_short(row) for row in new)}")
        return done

    def _flavours(self, mixes: Sequence[Mix]) -> list[NewFlavour]:
        made = [(mix, make_flavours(self.source, mix.name, mix.recipe, self.bench.target)) for mix in mixes]
        self.mix_of |= {f"{flavour.name}.onnx": mix for mix, flavours in made for flavour in flavours}
        return [flavour for _, flavours in made for flavour in flavours]

    def _write(self, flavours: Sequence[NewFlavour], out: Path, *, overwrite: bool) -> Artifact:
        return self.quantizer.write(self.source, out, flavours, self.batches, self.prepared, overwrite=overwrite)

    def _sensitivity_of(self, placement: str) -> Sensitivity:
        if placement not in self.sensitivity:
            self.say(f"measuring which units of {placement} cost most")
            self.sensitivity[placement] = measure_sensitivity(
                self.prepared.model,
                self.prepared.recipes[placement],
                self.bench.target,
                _first(self.batches, _SENSITIVITY_IMAGES),
                classifies=self.source.content["output"]["name"] == "logits",
                workers=self.bench.threads,
                state=self.bench.folder / f"sensitivity-{placement}.json",
                progress=self.progress,
            )
        return self.sensitivity[placement]

    def _result(self, base: Sequence[str]) -> Found:
        front = pareto_front(self.rows)
        worth = {*base, *map(self._name_of, front)}
        mixes = [mix for name, mix in self.made.items() if name in worth]
        return Found(
            artifact=self._write(self._flavours(mixes), self.out, overwrite=self.overwrite),
            rows=tuple(self.rows),
            front=tuple(front),
            tried=len(self.rows),
            notes=tuple(self.notes),
            sensitivity=self.sensitivity,
        )

    def _note(self, sentence: str) -> None:
        self.notes.append(sentence)
        self.say(sentence)


def _first(batches: Calibration, count: int) -> list[npt.NDArray[np.float32]]:
    images = []
    for image in batches:
        images.append(image)
        if len(images) == count:
            break
    return images


def _short(row: Row) -> str:
    where = f"{row['name']} on {row['backend']}"
    if row["latency"] is None:
        return f"{where} dropped out"
    return f"{where} {row['latency']['p50_ms']:.3g} ms{'' if row['passed'] else ' (outside the budget)'}"
