"""How many images per second does a pretraining step take in, beside the released steps of MAE and DMAE?

    python benchmarks/pretrain_throughput.py [--reference mae=PATH] [--reference dmae=PATH] [--cases mae-tiny ...]

A step is forward, backward and the optimiser on random images that are on the device already. edgemim's is run as it
is written and compiled; a released one (a checkout of its repository, read and mended from here, none of it kept)
with its own unfused attention and with timm's fused one. All of a case live in one process and take turns. Beside
images per second: where the time of a step goes, by part and by kind of kernel; peak memory, of each in a process of
its own; and the share of the rate at which this device multiplies big matrices in the same type.

`--curve STEPS` trains all of them from the same weights on the same images and masks, and the released one a second
time with other masks, which shows how far apart two runs of the same code are. `--real` runs `edgemim pretrain` on
images from a disk, and says how long it waits for them.

On a GPU the batch is as large as fits each. On two cores `mae-tiny` in fp32 with a reference takes about fifteen
minutes. A CPU without instructions for bf16 takes minutes for one step in it.

What would make the answer wrong: other work on the machine; too few steps in a turn; a GPU that slows down when it
gets warm (rounds say how much the ratios vary); one thread count for all machines; a torch that compiles otherwise.
"""

from __future__ import annotations

import argparse
import gc
import json
import shlex
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from _parts.kernel_shares import kernel_shares
from _parts.loss_curve import loss_curves
from _parts.machine import describe_machine
from _parts.matrix_rate import matrix_rate
from _parts.memory import peak_memory_mib
from _parts.official import Official
from _parts.one_run import write_result
from _parts.real_input import run_with_real_input
from _parts.side_by_side import say_on_stderr
from _parts.trainee import Trainee, flops_of_a_step, largest_batch, parts_ms, seconds_in_turn
from _parts.training_cases import CASES, Edgemim, make_images, make_method

from edgemim.training.loop.precision import multiplies_bf16
from edgemim.training.settings.training import TrainingSettings

HERE = Path(__file__).parent
EAGER, COMPILED, RELEASED, FUSED = "edgemim", "edgemim, compiled", "released", "released, fused attention"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
BATCH = 32
# Our best form against a released one: a GPU, a CPU in fp32, a CPU in bf16.
TARGETS = {"gpu": {RELEASED: 2.0, FUSED: 1.2}, "cpu fp32": {RELEASED: 1.12}, "cpu bf16": {RELEASED: 1.3}}


def main() -> None:
    """Measure what is asked for, and put it into the result file beside what is there already."""
    arguments = parse()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.alone:
        print_memory(arguments)
        return
    kept = json.loads(arguments.out.read_text("utf-8")) if arguments.out.exists() else {}
    machine = describe_machine()
    device = the_device()
    command = shlex.join(["python", "benchmarks/pretrain_throughput.py", *shown(sys.argv[1:])])
    facts = {"question": (__doc__ or "").split("\n")[0], "threads": torch.get_num_threads(), **machine}
    rows = {(row["case"], row["precision"]): row for row in kept.get("rows", [])}
    curves = {(row["case"], row["precision"]): row for row in kept.get("curves", [])}
    real = {(row["case"], row["precision"], row["data"]): row for row in kept.get("real", [])}
    for precision in arguments.precisions:
        if not (arguments.curve or arguments.real):
            rate = round(matrix_rate(device, DTYPES[precision]) / 1e12, 4)
        for name in arguments.cases:
            case = CASES[name]
            if arguments.curve:
                done = curve(arguments, name, precision)
                curves[case.shown, precision] = {**done, "command": command, "commit": machine["commit"]}
            elif arguments.real:
                done = real_input(arguments, name, precision)
                real[case.shown, precision, done["data"]] = {**done, "command": command, "commit": machine["commit"]}
            else:
                done = measure(arguments, name, precision, rate * 1e12)
                made = {"matrix_tflops": rate, "command": command, "commit": machine["commit"]}
                rows[case.shown, precision] = {**done, **made}
            gc.collect()
    parts = {"rows": [*rows.values()], "curves": [*curves.values()], "real": [*real.values()]}
    write_result(arguments.out, {**facts, "command": command, **parts})
    say_on_stderr(f"wrote {arguments.out}")


def parse() -> argparse.Namespace:
    """Options; those that depend on the device have its defaults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", action="append", default=[], metavar="METHOD=PATH", help="mae or dmae")
    parser.add_argument("--cases", nargs="+", choices=list(CASES))
    parser.add_argument("--precisions", nargs="+", choices=list(DTYPES))
    parser.add_argument("--batch-size", type=int, default=0, help=f"0: {BATCH} on a CPU, as large as fits on a GPU")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=0, help="of a turn or a real run; 0: 2 on a CPU, 20 on a GPU")
    parser.add_argument("--threads", type=int, default=0, help="0: torch's own choice")
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled form out")
    parser.add_argument("--curve", type=int, default=0, metavar="STEPS", help="loss curves instead of times")
    parser.add_argument("--real", action="store_true", help="a run on --data instead of times")
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared" / "data" / "cifar10")
    parser.add_argument("--workers", type=int, default=-1, help="of a real run")
    parser.add_argument("--out", type=Path, help="results/pretrain_throughput.json, or ..._gpu.json")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    cuda = torch.cuda.is_available()
    arguments.reference = dict(given.split("=", 1) for given in arguments.reference)
    arguments.cases = arguments.cases or (["mae-base", "dmae-large-to-base"] if cuda else ["mae-tiny"])
    default = ["bf16"] if cuda else ["fp32", "bf16"] if multiplies_bf16() else ["fp32"]
    arguments.precisions = arguments.precisions or default
    arguments.steps = arguments.steps or (20 if cuda else 2)
    arguments.out = arguments.out or HERE / "results" / f"pretrain_throughput{'_gpu' if cuda else ''}.json"
    return arguments


def measure(arguments: argparse.Namespace, name: str, precision: str, rate: float) -> dict[str, Any]:
    """The row of a case in one precision."""
    case, device = CASES[name], the_device()
    trainees = {who: make(arguments, name, precision, who) for who in contenders(arguments, name)}
    for trainee in trainees.values():
        trainee.step(make_images(2 if device.type == "cpu" else 16, case, device))  # all optimisers have their state
    sizes = {who: arguments.batch_size or batch_of(name, trainee) for who, trainee in trainees.items()}
    images = {size: make_images(size, case, device) for size in set(sizes.values())}
    given = {who: images[size] for who, size in sizes.items()}
    say_on_stderr(f"{name}, {precision}: batches of {sizes}")
    seconds = seconds_in_turn(trainees, given, rounds=arguments.rounds, steps=arguments.steps)
    speed = {who: [sizes[who] / s for s in seconds[who]] for who in trainees}
    flops = {who: flops_of_a_step(trainees[who], given[who]) for who in trainees if who != COMPILED}
    if COMPILED in trainees:
        flops[COMPILED] = round(flops[EAGER] * sizes[COMPILED] / sizes[EAGER])
    rows = {
        who: {
            "batch_size": sizes[who],
            "images_per_s": round(statistics.median(speed[who]), 3),
            "images_per_s_range": [round(min(speed[who]), 3), round(max(speed[who]), 3)],
            "gflop_per_image": round(flops[who] / sizes[who] / 1e9, 2),
            "utilisation": round(flops[who] / statistics.median(seconds[who]) / rate, 4),
            "parts_ms": parts_ms(trainee, given[who], steps=max(3, arguments.steps)),
            "kernel_shares": kernel_shares(trainee, given[who]),
            "seconds": [round(s, 5) for s in seconds[who]],
        }
        for who, trainee in trainees.items()
    }
    close(trainees)
    for who in rows:
        rows[who] |= memory_alone(arguments, name, precision, who, sizes[who])
        say_on_stderr(f"  {who}: {rows[who]['images_per_s']} images/s")
    return {
        "case": case.shown,
        "precision": precision,
        "decoder": f"{case.decoder.width} x {case.decoder.depth}",
        "image_size": case.size,
        "rounds": arguments.rounds,
        "steps_per_round": arguments.steps,
        "contenders": rows,
        "speedups": speedups(speed, kind(device, precision)),
    }


def speedups(speed: Mapping[str, list[float]], where: str) -> dict[str, Any]:
    """Our forms against the released ones: median, least and most of the rounds' own ratios, and the target."""
    found = {}
    for other in (RELEASED, FUSED):
        if other not in speed:
            continue
        ratios = {}
        for own in (EAGER, COMPILED):
            each = [a / b for a, b in zip(speed.get(own, []), speed[other], strict=False)]
            if each:
                ratios[own] = [round(f(each), 3) for f in (statistics.median, min, max)]
        best, target = max(r[0] for r in ratios.values()), TARGETS[where].get(other)
        found[other] = {"ratios": ratios, "target": target, "met": None if target is None else best >= target}
    return found


def curve(arguments: argparse.Namespace, name: str, precision: str) -> dict[str, Any]:
    """Loss curves of a case."""
    case = CASES[name]
    if case.method not in arguments.reference:
        raise SystemExit(f"--curve compares with the released step; give --reference {case.method}=PATH")
    return loss_curves(
        case,
        Path(arguments.reference[case.method]),
        device=the_device(),
        precision=precision,
        batch_size=arguments.batch_size or BATCH,
        steps=arguments.curve,
        data=arguments.data if arguments.data.is_dir() else None,
    )


def real_input(arguments: argparse.Namespace, name: str, precision: str) -> dict[str, Any]:
    """A run on CIFAR-10 where it is there, else on the built-in digits."""
    return run_with_real_input(
        CASES[name],
        str(arguments.data) if arguments.data.is_dir() else "digits",
        precision=precision,
        batch_size=arguments.batch_size or BATCH,
        steps=arguments.steps,
        workers=arguments.workers,
    )


def contenders(arguments: argparse.Namespace, name: str) -> list[str]:
    """Who takes part in a case."""
    own = [EAGER] if arguments.no_compile else [EAGER, COMPILED]
    return own + ([RELEASED, FUSED] if CASES[name].method in arguments.reference else [])


def make(arguments: argparse.Namespace, name: str, precision: str, who: str) -> Trainee:
    """One contender with fresh weights."""
    case, device = CASES[name], the_device()
    torch.manual_seed(0)
    settings = TrainingSettings(steps=1000, batch_size=BATCH)
    if who in (EAGER, COMPILED):
        compiles = who == COMPILED
        return Edgemim(make_method(case), settings, device=device, precision=precision, compiles=compiles)
    checkout, lr = Path(arguments.reference[case.method]), settings.learning_rate
    return Official(checkout, case, device=device, precision=precision, fused=who == FUSED, lr=lr)


def close(trainees: dict[str, Trainee]) -> None:
    """Give back what the contenders hold."""
    for trainee in trainees.values():
        if isinstance(trainee, Edgemim):
            trainee.close()
    trainees.clear()


def batch_of(name: str, trainee: Trainee) -> int:
    """The batch of a contender where none is given."""
    if trainee.device.type == "cpu":
        return BATCH
    return largest_batch(trainee, lambda size: make_images(size, CASES[name], trainee.device))


def memory_alone(arguments: argparse.Namespace, name: str, precision: str, who: str, size: int) -> dict[str, float]:
    """Peak memory of a contender, measured in a process that does nothing else."""
    command = [sys.executable, str(Path(__file__).resolve()), "--cases", name, "--precisions", precision]
    command += ["--alone", who, "--batch-size", str(size), "--threads", str(torch.get_num_threads())]
    command += [part for given in arguments.reference.items() for part in ("--reference", "=".join(given))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{who} alone failed: {done.stderr.strip().splitlines()[-1:]}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def print_memory(arguments: argparse.Namespace) -> None:
    """Peak memory of one contender's steps in this process, as JSON on stdout."""
    name, precision = arguments.cases[0], arguments.precisions[0]
    trainee = make(arguments, name, precision, arguments.alone)
    images = make_images(arguments.batch_size, CASES[name], trainee.device)
    with trainee.turn():
        for _ in range(2):
            trainee.step(images)
    found = {"peak_mib": round(peak_memory_mib(), 1)}
    if trainee.device.type == "cuda":
        found["gpu_peak_mib"] = round(torch.cuda.max_memory_allocated(trainee.device) / 2**20, 1)
    sys.stdout.write(json.dumps(found) + "\n")


def kind(device: torch.device, precision: str) -> str:
    """Which target counts."""
    return "gpu" if device.type == "cuda" else f"cpu {precision}"


def the_device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def shown(given: list[str]) -> list[str]:
    """The command as a result may show it: where things lie on this machine is nobody's business."""
    named = [f"{part.split('=')[0]}=PATH" if "=" in part else part for part in given]
    return [Path(part).name if Path(part).is_absolute() else part for part in named]


if __name__ == "__main__":
    main()
