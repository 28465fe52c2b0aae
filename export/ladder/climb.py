"""Climb from torch to the fp32 graph, and from there to every other flavour, block by block.

    ladder = climb(fp32, [fp16, int8], golden, model=model)
    ladder.steps[1].first          # "blocks.1", the first block that departs
    ladder.steps[1].culprit        # "blocks.1.mlp.fc2"

First the outputs of all blocks are compared on the golden images, then what lies inside the first one that departs
(`edgemim.export.ladder.limits`). Two models are in memory at a time, one image, and no more taps than a budget allows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from edgemim.errors import DeviceError
from edgemim.export.ladder.agreement import EQUAL_DB, Agreement, Comparison
from edgemim.export.ladder.limits import LIMITS, Limit, culprit, excused
from edgemim.export.ladder.runs import Array, Golden, OnnxRung, Rung, TorchRung
from edgemim.export.ladder.taps import Layout, Tap, by_block, in_chunks, read_layout
from edgemim.export.parity import Floats

BUDGET_BYTES = 256 << 20

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of the ladder: a model compared with the one that it must follow.

    Attributes:
        name: Of the model.
        against: Of its reference.
        limit: From which error on it departs.
        blocks: The outputs of the blocks, in the graph's order; empty where none can be compared.
        modules: The taps inside the first block that departs, or inside all blocks.
        first: The first block that departs.
        culprit: The tap inside it that loses most: a module, or `blocks.1.attn before proj` where the loss is in
            what `blocks.1.attn` computes itself.
        rescaled: Taps whose channels are scaled and shifted otherwise than in the reference, and that are excused since
            the next layer undoes it, or could.
        suspect: Those of them that the culprit reads: it may not have undone them.
        before_db: Signal-to-noise ratio of the block before the first that departs.
        output: The model's first output, node by node.
        fused: The same with ONNX Runtime's fusions and nothing tapped.
        unmatched: Taps of the reference that the model has not, or in another shape.
        passes: How many sets of taps were run one after the other.
        peak_bytes: Of the values in the largest such set.
        by_module: Whether modules were compared at all.
        refusal: Why the model cannot be run here.
    """

    name: str
    against: str
    limit: Limit
    blocks: Mapping[str, Agreement] = field(default_factory=dict)
    modules: Mapping[str, Agreement] = field(default_factory=dict)
    first: str | None = None
    culprit: str | None = None
    rescaled: tuple[str, ...] = ()
    suspect: tuple[str, ...] = ()
    before_db: float | None = None
    output: Agreement | None = None
    fused: Agreement | None = None
    unmatched: int = 0
    passes: int = 0
    peak_bytes: int = 0
    by_module: bool = True
    refusal: str | None = None

    def snr_db(self, block: str) -> float:
        """Signal-to-noise ratio of a block, but for scales that are undone; the lowest where it is not finite."""
        found = self.blocks[block]
        value = found.aligned_db if block in self.rescaled and found.aligned_db is not None else found.snr_db
        return -EQUAL_DB if value is None else value

    @property
    def departs(self) -> bool:
        """Whether a block or the output does, node by node."""
        return self.first is not None or self.output_departs

    @property
    def output_departs(self) -> bool:
        """Whether the output does, node by node."""
        return self.output is not None and self.limit.departs(self.output, None)

    @property
    def departs_fused(self) -> bool:
        """Whether the output does as ONNX Runtime runs it when nobody looks."""
        return self.fused is not None and self.limit.departs(self.fused, None)


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """All steps, the fp32 graph's first.

    Attributes:
        images: On which they were taken.
        notes: What a reader should know of the comparison, one sentence each.
    """

    images: int
    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()


def climb(
    fp32: OnnxRung,
    others: Sequence[OnnxRung],
    golden: Golden,
    *,
    model: torch.nn.Module | None = None,
    outputs: Floats | None = None,
    notes: Sequence[str] = (),
    every_module: bool = False,
    budget_bytes: int = BUDGET_BYTES,
    progress: Progress | None = None,
) -> Ladder:
    """Compare the fp32 graph with torch, and every other flavour with the fp32 graph.

    Args:
        fp32: The reference of all others.
        others: Their precisions decide what they may lose.
        golden: What they are compared on, at least one image.
        model: The torch model, in eval mode.
        outputs: Used without `model`: what it gave for these images, [G, K].
        notes: For the reader of the ladder.
        every_module: Compare the modules inside every block, not only inside the first that departs.
        budget_bytes: Of tapped values at a time; one that is larger is taken alone.
        progress: Called with (steps done, steps in all).

    Raises:
        DeviceError: ONNX Runtime cannot run the fp32 graph.
        MissingDependencyError: onnxruntime is not installed.
    """
    layout = read_layout(fp32.graph())
    steps = []
    if model is not None:
        torch_rung = TorchRung(model, golden, fp32.batch())
        steps.append(compare(torch_rung, fp32, layout, golden, every_module=every_module, budget_bytes=budget_bytes))
    elif outputs is not None:
        steps.append(_compare_outputs(fp32, golden, outputs))
    for done, other in enumerate(others):
        if progress is not None:
            progress(done, len(others))
        try:
            step = compare(fp32, other, layout, golden, every_module=every_module, budget_bytes=budget_bytes)
        except DeviceError as error:
            step = Step(name=other.name, against=fp32.name, limit=LIMITS[other.precision], refusal=str(error))
        steps.append(step)
    fp32.close()
    return Ladder(images=len(golden), steps=tuple(steps), notes=tuple(notes))


def compare(
    reference: Rung,
    other: OnnxRung,
    layout: Layout,
    golden: Golden,
    *,
    limit: Limit | None = None,
    every_module: bool = False,
    budget_bytes: int = BUDGET_BYTES,
) -> Step:
    """One step; `layout` is that of the reference, or of `other` where the reference is torch.

    Raises:
        DeviceError: ONNX Runtime cannot run one of them.
    """
    limit = limit or LIMITS[other.precision]
    pairs = _Pairs(reference, other, layout, golden, budget_bytes)
    blocks = by_block(pairs.taps)
    found = pairs.compare(blocks)
    passed = excused(found, layout.sources(found), limit, None)
    first, before = _first_departure(found, passed, limit)
    opened = blocks if every_module else [first] if first else []
    inside = {name: _distinct(blocks[name]) for name in opened}
    modules = pairs.compare(name for names in inside.values() for name in names)
    sources = layout.sources({**found, **modules})
    passed |= excused({**found, **modules}, sources, limit, before)
    named = None if first is None else culprit({**found, **modules}, inside[first], sources, limit, before) or first
    other.close()
    return Step(
        name=other.name,
        against=reference.name,
        limit=limit,
        blocks=found,
        modules=modules,
        first=first,
        culprit=named,
        rescaled=tuple(name for name in sources if name in passed),
        suspect=tuple(name for name in sources.get(named or "", ()) if name in passed),
        before_db=before,
        output=pairs.output(),
        fused=pairs.fused(),
        unmatched=len(layout.taps) - len(pairs.taps),
        passes=pairs.passes,
        peak_bytes=pairs.peak_bytes,
    )


class _Pairs:
    """Two models side by side, and the outputs of both as far as they were run."""

    def __init__(self, reference: Rung, other: OnnxRung, layout: Layout, golden: Golden, budget_bytes: int) -> None:
        self._reference, self._other = reference, other
        self._golden, self._budget = golden, budget_bytes
        theirs = layout.taps if isinstance(reference, TorchRung) else read_layout(other.graph()).taps
        known = [tap for name, tap in layout.taps.items() if name in theirs and theirs[name].shape == tap.shape]
        self.taps = reference.having(known)
        self._theirs = theirs
        self._outputs: list[Array] = []
        self._output = Comparison()
        self.passes = self.peak_bytes = 0

    def compare(self, names: Iterable[str]) -> dict[str, Agreement]:
        """Agreement of taps by name."""
        wanted = set(names)
        found: dict[str, Agreement] = {}
        for chunk in in_chunks([tap for tap in self.taps if tap.name in wanted], self._budget):
            found |= self._run(chunk)
        return found

    def output(self) -> Agreement:
        """Of the first output, tapped as the last taps were."""
        if not self._outputs:
            self._run([])
        return self._output.result()

    def fused(self) -> Agreement:
        """Of the first output, with fusions and without any tap."""
        found = Comparison()
        for reference, output in zip(self._outputs, self._other.run_fused(), strict=True):
            found.add(reference, output)
        return found.result()

    def _run(self, taps: Sequence[Tap]) -> dict[str, Agreement]:
        comparisons = {tap.name: Comparison() for tap in taps}
        self._outputs, self._output = [], Comparison()
        for index in range(len(self._golden)):
            expected, reference = self._reference.run(taps, index)
            values, output = self._other.run([self._theirs[tap.name] for tap in taps], index)
            for name, comparison in comparisons.items():
                comparison.add(expected[name], values[name])
            self._outputs.append(reference)
            self._output.add(reference, output)
        self.passes += 1
        self.peak_bytes = max(self.peak_bytes, sum(tap.size_bytes for tap in taps))
        return {name: comparison.result() for name, comparison in comparisons.items()}


def _first_departure(
    blocks: Mapping[str, Agreement], passed: Collection[str], limit: Limit
) -> tuple[str | None, float | None]:
    """The first block that departs and is not excused, and the signal-to-noise ratio of the one before."""
    before = None
    for name, found in blocks.items():
        if name not in passed and limit.departs(found, before):
            return name, before
        before = found.aligned_db if name in passed else found.snr_db
    return None, None


def _distinct(taps: Iterable[Tap]) -> list[str]:
    """Names of taps, once per value: under that of the innermost module."""
    names: dict[str, str] = {}
    for tap in taps:
        names.setdefault(tap.value, tap.name)
    return list(names.values())


def _compare_outputs(fp32: OnnxRung, golden: Golden, outputs: Floats) -> Step:
    """Only the outputs, where the torch model is not at hand."""
    output, fused = Comparison(), Comparison()
    for index, (expected, found) in enumerate(zip(outputs, fp32.run_fused(), strict=True)):
        fused.add(expected, found[0])
        output.add(expected, fp32.run([], index)[1][0])
    return Step(
        name=fp32.name,
        against="torch's outputs",
        limit=LIMITS[fp32.precision],
        output=output.result(),
        fused=fused.result(),
        by_module=False,
        passes=1,
    )
