"""Does edgemim measure what the vendors' own tools measure, and what does its wrapper cost per call?

    python benchmarks/overhead.py [--model vit_tiny_patch16_224] [--rounds 6] [--seconds 5] [--threads N]

One ViT in fp32, exported as a user exports it. In every round, one after the other: edgemim's session of OpenVINO in
its measuring loop, then OpenVINO's `benchmark_app -api sync -hint latency` on the same IR with the same threads and
precision; edgemim's session of ONNX Runtime, then a bare loop around `InferenceSession.run`. What counts is the ratio
of the medians, round by round. Then a model of four numbers, on one thread: what a call costs in edgemim's session and
loop, less what the vendor's own call costs, in CPU time of the process; of OpenVINO once against a call that is given
its input, and once against one whose input was set before, as in benchmark_app.

The targets: medians within 3 % of the vendor's, and less than 20 us per call. Takes about four minutes. What would make
the answer wrong: other work on the machine, which the result tells (`environment`). benchmark_app gives its median in
steps of 0.01 ms, and leaves Python out of it: a model of less than a millisecond would show that.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino
from _parts.machine import describe_machine, usable_cores
from _parts.one_run import write_result
from _parts.random_vit import random_checkpoint
from _parts.side_by_side import say_on_stderr
from onnx import TensorProto, helper

from edgemim.pipeline.make_bundle import BundleSettings, make_bundle
from edgemim.runtime.backends import BACKENDS
from edgemim.runtime.backends._base import Engine, Session
from edgemim.runtime.backends.onnxruntime import OnnxRuntimeSession
from edgemim.runtime.backends.openvino import OpenVinoSession
from edgemim.runtime.bundle import Bundle, load_bundle
from edgemim.runtime.environment.watch import EnvironmentWatch
from edgemim.runtime.latency.measure import measure_latency
from edgemim.runtime.latency.protocol import LatencyProtocol
from edgemim.runtime.latency.summary import percentile

HERE = Path(__file__).parent
LIMIT, LIMIT_US = 0.03, 20.0
SMALL_CALLS = 2000
WARMUP_S = 0.5
APP = (sys.executable, "-c", "from openvino.tools.benchmark.main import main; main()")

Call = Callable[[], object]
# Milliseconds of the median run.
Median = Callable[[], float]


def main() -> None:
    """Measure, and write `results/overhead.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_tiny_patch16_224")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each, in each round")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--out", type=Path, default=HERE / "results" / "overhead.json")
    arguments = parser.parse_args()
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as folder:
        bundle = prepare(arguments.model, Path(folder))
        with EnvironmentWatch() as watch:
            medians = {
                name: compare(name, pair(bundle, Path(folder), arguments), arguments.rounds)
                for name, pair in (("openvino", against_benchmark_app), ("onnxruntime", against_a_bare_loop))
            }
            wrappers = [cost(*calls, arguments.rounds) for calls in small_calls()]
    result = {
        "question": (__doc__ or "").split("\n")[0],
        "command": shlex.join(["python", "benchmarks/overhead.py", *sys.argv[1:]]),
        "model": arguments.model,
        "precision": "f32",
        "threads": arguments.threads,
        "seconds": arguments.seconds,
        "runtimes": {"openvino": openvino.__version__, "onnxruntime": onnxruntime.__version__},
        "limits": {"ratio": LIMIT, "us": LIMIT_US},
        "medians": medians,
        "wrapper": wrappers,
        "met": all(row["met"] for row in (*medians.values(), *wrappers)),
        "environment": watch.summary().to_dict(),
        **machine,
    }
    write_result(arguments.out, result)
    say_on_stderr(f"wrote {arguments.out}")


def prepare(model: str, folder: Path) -> Bundle:
    """The model with random weights, as `edgemim export --target x86` makes a bundle of it."""
    checkpoint = random_checkpoint(folder / "checkpoint", model)
    settings = BundleSettings(target="x86", precision="fp32", calibration="random:8", evaluation="none")
    make_bundle(checkpoint, folder / "bundle", settings, say=say_on_stderr)
    return load_bundle(folder / "bundle")


def against_benchmark_app(bundle: Bundle, folder: Path, arguments: argparse.Namespace) -> tuple[Median, Median]:
    """Ours, and the median that benchmark_app prints for the same IR."""
    engine, session = opened("openvino", bundle, folder, arguments.threads)
    source = next(iter(openvino.Core().read_model(str(engine.file)).inputs))
    precision, report = source.element_type.get_type_name(), folder / "app"
    report.mkdir()
    settings = folder / "threads.json"
    settings.write_text(json.dumps({"CPU": {"INFERENCE_NUM_THREADS": arguments.threads}}))
    options: dict[str, object] = {
        "m": engine.file,
        "d": "CPU",
        "api": "sync",
        "hint": "latency",
        "infer_precision": "f32",
        "ip": precision,
        # With a hint it takes the number of threads from a file only.
        "load_config": settings,
        "t": max(1, round(arguments.seconds)),
        "report_type": "no_counters",
        "report_folder": report,
    }
    command = [*APP, "-json_stats", *(str(word) for name, value in options.items() for word in (f"-{name}", value))]

    def theirs() -> float:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=dict(os.environ, OPENVINO_LOG_LEVEL="0"))
        told = json.loads((report / "benchmark_report.json").read_text())
        return float(told["execution_results"]["latency (ms)"])

    return partial(ours, session, bundle, arguments.seconds), theirs


def against_a_bare_loop(bundle: Bundle, folder: Path, arguments: argparse.Namespace) -> tuple[Median, Median]:
    """Ours, and a loop with nothing in it but the clock and the vendor's call, on a session of its own."""
    engine, session = opened("onnxruntime", bundle, folder, arguments.threads)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = arguments.threads
    bare = onnxruntime.InferenceSession(str(engine.file), settings, providers=["CPUExecutionProvider"])
    inputs, _ = next(bundle.golden_batches())

    def theirs() -> float:
        taken = []
        begin = time.perf_counter()
        while time.perf_counter() - begin < WARMUP_S:
            bare.run(None, inputs)
        begin = time.perf_counter()
        while time.perf_counter() - begin < arguments.seconds:
            before = time.perf_counter_ns()
            bare.run(None, inputs)
            taken.append(time.perf_counter_ns() - before)
        return statistics.median(taken) / 1e6

    return partial(ours, session, bundle, arguments.seconds), theirs


def opened(name: str, bundle: Bundle, folder: Path, threads: int) -> tuple[Engine, Session]:
    """The bundle's fp32 candidate on a backend."""
    backend = BACKENDS.get(name)()
    candidate = next(c for c in bundle.candidates if c.name == "fp32")
    engine = backend.compile(bundle, candidate, folder / "engines", threads)
    return engine, backend.open(engine)


def ours(session: Session, bundle: Bundle, seconds: float) -> float:
    """Median as edgemim's loop measures it, in ms."""
    inputs, _ = next(bundle.golden_batches())
    protocol = LatencyProtocol(runs=1, seconds=seconds, rounds=1, warmup_s=WARMUP_S, warmup_most_s=0)
    return percentile(measure_latency({"": partial(session.run, inputs)}, protocol)[""].nanoseconds, 50) / 1e6


def compare(name: str, pair: tuple[Median, Median], rounds: int) -> dict[str, Any]:
    """Both in turn, the first one changing, and the ratio of their medians in every round."""
    mine, vendors = pair
    rows = []
    for number in range(rounds):
        if number % 2:
            theirs, own = vendors(), mine()
        else:
            own, theirs = mine(), vendors()
        rows.append({"edgemim_ms": round(own, 4), "vendor_ms": round(theirs, 4), "ratio": round(own / theirs, 4)})
        say_on_stderr(f"{name}: {rows[-1]['edgemim_ms']} ms beside {rows[-1]['vendor_ms']}, {rows[-1]['ratio']}")
    ratios = [row["ratio"] for row in rows]
    ratio = statistics.median(ratios)
    return {
        "versus": "benchmark_app" if name == "openvino" else "a bare loop",
        "ratio": round(ratio, 4),
        "ratio_range": [min(ratios), max(ratios)],
        "met": abs(ratio - 1) <= LIMIT,
        "rounds": rows,
    }


def small_calls() -> Iterator[tuple[str, str, Call, Call]]:
    """Backend, what it is held against, edgemim's call and the vendor's, on the smallest of models."""
    shape = (1, 4)
    kinds = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "small", kinds[:1], kinds[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    inputs = {"x": np.ones(shape, np.float32)}

    options = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": 1}
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model), "CPU", options)
    mine, given, preset = OpenVinoSession(compiled), compiled.create_infer_request(), compiled.create_infer_request()
    theirs = partial(given.infer, inputs, share_inputs=True)
    yield "openvino", "infer(inputs)", partial(mine.run, inputs), theirs
    preset.set_input_tensor(openvino.Tensor(inputs["x"], shared_memory=True))
    yield "openvino", "infer(), its input set before", partial(mine.run, inputs), preset.infer

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    bare = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    yield (
        "onnxruntime",
        "run(None, inputs)",
        partial(OnnxRuntimeSession(bare).run, inputs),
        partial(bare.run, None, inputs),
    )


def cost(backend: str, versus: str, mine: Call, theirs: Call, rounds: int) -> dict[str, Any]:
    """Microseconds of CPU time per call, edgemim's session in its loop less the vendor's call in a bare one."""
    protocol = LatencyProtocol(
        runs=SMALL_CALLS, seconds=0, rounds=1, warmup_s=0, warmup_runs=1, warmup_most_s=0, settle_runs=0, settle_s=0
    )

    def in_our_loop() -> None:
        measure_latency({"": mine}, protocol, device_times={"": lambda: None})

    def in_a_bare_loop() -> None:
        for _ in range(SMALL_CALLS):
            theirs()

    # Measuring begins with a garbage collection; what this script imported is not to be looked through each time.
    gc.freeze()
    both: dict[str, list[float]] = {"edgemim_us": [], "vendor_us": []}
    for number in range(5 * rounds + 1):
        for name, loop in zip(both, (in_our_loop, in_a_bare_loop), strict=True):
            with cpu_time() as taken:
                loop()
            if number:  # the first is a warm-up
                both[name].append(1e6 * taken[0] / SMALL_CALLS)
    gc.unfreeze()
    costs = [own - other for own, other in zip(*both.values(), strict=True)]
    row = {name: round(statistics.median(values), 2) for name, values in both.items()}
    row["cost_us"] = round(statistics.median(costs), 2)
    say_on_stderr(f"{backend}, beside {versus}: {row['cost_us']} us per call")
    return {
        "backend": backend,
        "versus": versus,
        **row,
        "cost_us_range": [round(min(costs), 2), round(max(costs), 2)],
        "calls": SMALL_CALLS * len(costs),
        "met": row["cost_us"] < LIMIT_US,
    }


@contextmanager
def cpu_time() -> Iterator[list[float]]:
    """A list that gets the seconds of CPU time that the block took."""
    taken: list[float] = []
    before = time.process_time()
    yield taken
    taken.append(time.process_time() - before)


if __name__ == "__main__":
    main()
