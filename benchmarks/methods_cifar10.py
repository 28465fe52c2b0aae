"""Does a teacher help a small student on CIFAR-10, and which method's student is best, at equal updates and seconds?

    python benchmarks/methods_cifar10.py --preset cpu|gpu|tiny [--timed] [--data PATH] [--plot docs/methods_cifar10.png]
    python benchmarks/methods_cifar10.py --preset cpu --timing

Each row trains the same student by one method for the same number of updates, measures k-NN and a linear probe of
its frozen features, fine-tunes it for the same number of updates, and counts the test images that it gets right.
`scratch` is fine-tuned only; `scratch-long` is fine-tuned for all the updates that the others get in both stages.
Distillation learns from one MAE teacher (`logit`: from its fine-tuned form), whose own updates are not counted.
`selfdistill` spends half of its updates on the MAE checkpoint that it goes on from. Methods for convnets train one, and
are held against `scratch-convnet`, not against the ViTs.

`--timed` adds the rows that end in `-timed`: as many updates of the method as take the time of all those of `mae` (of a
convnet: those of `spark`), by what `--timing` measured beforehand, looks at all training images included. A row whose
updates cost about what those do is not run again. In all else they are the rows without that ending.

One JSON per run and a `summary.json`. A finished run is not run again while its settings and images are the same; an
interrupted one is taken up where it was. `--preset cpu` takes several hours on two cores, `gpu` many hours on one GPU,
`tiny` a few minutes and proves nothing; `--minutes` divides them up. `--timing` measures what an update costs; nothing
else should be running. `--validation` tests on held-out training images instead of the test images: settings are chosen
there or not at all.

What would make the answer wrong: settings picked by their test accuracy; updates too few for a method to pay off;
one teacher, whose luck all its students share; other work on the machine during `--timing`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from _parts.comparison import PROTOCOL, TEACHER, Run, plan, student_run, teacher_run
from _parts.machine import describe_machine, usable_cores
from _parts.presets import PRESETS, SIZE, Preset
from _parts.side_by_side import Task, run_side_by_side, say_on_stderr
from _parts.summary import summarise

HERE = Path(__file__).parent
CIFAR10 = HERE.parent.parent / "shared" / "data" / "cifar10"
ROUNDS = 7
STEPS_PER_ROUND = 5


def main() -> None:
    """Run what is left, then write the summary."""
    arguments = parse()
    if arguments.job is not None:
        do_job(json.loads(arguments.job.read_text("utf-8")))
    elif arguments.memory is not None:
        print_memory(arguments)
    elif arguments.timing:
        time_methods(arguments)
    else:
        compare(arguments)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(PRESETS), default="cpu")
    parser.add_argument("--data", type=Path, default=CIFAR10, help="parquet files or torchvision's download")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "methods_cifar10", help="for the JSON")
    parser.add_argument("--work", type=Path, default=HERE.parent / "runs" / "methods_cifar10", help="for checkpoints")
    parser.add_argument("--jobs", type=int, default=0, help="runs side by side; 0: one per core, on a GPU one")
    parser.add_argument("--threads", type=int, default=1, help="of --timing")
    parser.add_argument("--only", type=_words, default=(), help="rows, comma-separated")
    parser.add_argument("--seeds", type=_numbers, default=(), help="of the ranked rows, comma-separated")
    parser.add_argument("--minutes", type=float, help="stop after so many; the next call goes on")
    parser.add_argument(
        "--timed", action="store_true", help="also run rows in the time of the updates of mae, or of spark"
    )
    parser.add_argument("--validation", action="store_true", help="test on held-out training images")
    parser.add_argument("--timing", action="store_true", help="measure seconds and memory of an update")
    parser.add_argument("--plot", type=Path, help="draw the summary into this file")
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    return parser.parse_args()


def compare(arguments: argparse.Namespace) -> None:
    """Every run of the plan that has no result yet, side by side."""
    preset, seeds = PRESETS[arguments.preset], arguments.seeds or PRESETS[arguments.preset].seeds
    in_time = updates_of_rows(arguments, preset)
    asked = plan(preset, seeds=seeds, only=arguments.only, in_time=changed(preset, in_time) if arguments.timed else {})
    say_on_stderr("reading the images")
    data, images = prepare_data(arguments, preset)
    comparison = Comparison(arguments, preset, images)
    left = [run for run in asked if comparison.result(run) is None]
    say_on_stderr(f"{len(asked) - len(left)} of {len(asked)} runs are done")
    jobs = arguments.jobs or default_jobs()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    outcome = run_side_by_side(
        [comparison.task(run, data, jobs) for run in left],
        jobs=jobs,
        seconds=None if arguments.minutes is None else arguments.minutes * 60,
        on_done=lambda task, seconds: comparison.line(task.label, seconds),
        say=say_on_stderr,
    )
    everything = plan(preset, seeds=tuple(sorted({*preset.seeds, *seeds})), in_time=changed(preset, in_time))
    write_summary(arguments, comparison, everything, alike=set(in_time) - set(changed(preset, in_time)))
    if outcome.failed:
        sys.exit(f"failed: {', '.join(outcome.failed)}; the logs are in {comparison.work}")


def updates_of_rows(arguments: argparse.Namespace, preset: Preset) -> dict[str, int]:
    """Of each row that is compared in the time of MAE, the number of its updates; none where nothing was measured.

    Raises:
        SystemExit: Such rows are to be run, and what an update costs was not measured for all of them.
    """
    from _parts.timed import read_seconds, updates_in_time

    command = f"python benchmarks/methods_cifar10.py --preset {arguments.preset} --timing"
    try:
        return updates_in_time(preset, read_seconds(timing_file(arguments), command), command)
    except SystemExit:
        if arguments.timed:
            raise
        return {}


def changed(preset: Preset, in_time: Mapping[str, int]) -> dict[str, int]:
    """Those of the rows that are to be run with another number of updates than the preset's."""
    return {row: updates for row, updates in in_time.items() if updates != preset.updates}


class Comparison:
    """Where the results and checkpoints of a preset lie, and which of them still count."""

    def __init__(self, arguments: argparse.Namespace, preset: Preset, images: dict[str, Any]) -> None:
        self.arguments = arguments
        self.preset = preset
        self.images = images
        folder = folder_name(arguments)
        self.out = arguments.out / folder
        self.work = arguments.work / folder
        self.runs: dict[str, Run] = {}

    def key(self, run: Run) -> str:
        """Of the run's result."""
        images = f"{self.images['train_fingerprint']} {self.images['test_fingerprint']}"
        teacher = teacher_run(self.preset)
        return run.key(images, teacher.key(images))

    def file(self, run: Run) -> Path:
        return self.out / f"{run.name}-seed{run.seed}.json"

    def folder(self, run: Run) -> Path:
        """Of the run's checkpoints; another for other settings, so that a state never meets foreign ones."""
        return self.work / f"{run.name}-seed{run.seed}-{self.key(run)}"

    def result(self, run: Run) -> dict[str, Any] | None:
        """What the run gave, if it was run with these settings."""
        if not self.file(run).is_file():
            return None
        result: dict[str, Any] = json.loads(self.file(run).read_text("utf-8"))
        return result if result["key"] == self.key(run) else None

    def task(self, run: Run, data: Path, jobs: int) -> Task:
        """The process that does the run."""
        self.runs[run.label] = run
        teacher = teacher_run(self.preset)
        job = {
            "preset": self.arguments.preset,
            "row": run.row,
            "in_time": run.in_time,
            "seed": run.seed,
            "key": self.key(run),
            "work": str(self.folder(run)),
            "data": str(data),
            "teacher": str(self.folder(teacher)) if run.needs_teacher else None,
            "out": str(self.file(run)),
            "workers": default_workers(),
        }
        file = self.work / "jobs" / f"{self.folder(run).name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(job, indent=1), "utf-8")
        return Task(
            label=run.label,
            command=[sys.executable, str(Path(__file__).resolve()), "--job", str(file)],
            environment={**os.environ, "OMP_NUM_THREADS": str(max(1, usable_cores() // jobs))},
            log=file.with_suffix(".log"),
            size=run.all_updates,
            after=(teacher.label,) if run.needs_teacher else (),
        )

    def line(self, label: str, seconds: float) -> str:
        """What to say of a run that is done."""
        result = self.result(self.runs[label])
        assert result is not None
        names = {"knn_top1": "k-NN", "linear_top1": "linear", "top1": "top-1"}
        scores = ", ".join(f"{shown} {result[name]:.4f}" for name, shown in names.items() if name in result)
        return f"{label}: {scores} ({seconds:.0f} s)"


def do_job(job: dict[str, Any]) -> None:
    """One run, in this process."""
    from _parts.one_run import execute, write_result

    from edgemim.errors import EdgemimError

    preset = PRESETS[job["preset"]]
    if job["row"] == TEACHER:
        run = teacher_run(preset)
    else:
        run = student_run(job["row"], preset, job["seed"], in_time=job["in_time"])
    try:
        result = execute(
            run,
            key=job["key"],
            work=Path(job["work"]),
            data=Path(job["data"]),
            teacher=None if job["teacher"] is None else Path(job["teacher"]),
            workers=job["workers"],
        )
    except EdgemimError as error:
        sys.exit(str(error))
    write_result(Path(job["out"]), {"preset": job["preset"], **result})


def prepare_data(arguments: argparse.Namespace, preset: Preset) -> tuple[Path, dict[str, Any]]:
    """The folder with the images of this comparison, decoded once, and what they are."""
    from _parts.cifar10 import VALIDATION_PER_CLASS, write_comparison_data

    from edgemim.data.open import open_splits
    from edgemim.training.feed.inputs import decoded

    if not arguments.data.is_dir():
        sys.exit(f"{arguments.data} is no folder; give --data a folder with CIFAR-10 (see --help)")
    counts = (preset.train_images, preset.test_images, arguments.validation, str(arguments.data.resolve()))
    folder = arguments.work / f"data-{hashlib.sha256(repr(counts).encode()).hexdigest()[:12]}"
    if not (folder / "test.parquet").is_file():
        write_comparison_data(
            arguments.data,
            folder,
            train_images=preset.train_images,
            test_images=preset.test_images,
            validation=arguments.validation,
        )
    splits = open_splits(str(folder))
    for images in (splits.train, splits.test):  # before several processes would want to
        decoded(images, (SIZE, SIZE))
    tested = f"the last {VALIDATION_PER_CLASS} training images of each class" if arguments.validation else "test images"
    return folder, {
        "set": "CIFAR-10",
        "train_images": len(splits.train),
        "test_images": len(splits.test),
        "tested_on": tested,
        "train_fingerprint": splits.train.fingerprint,
        "test_fingerprint": splits.test.fingerprint,
    }


def write_summary(
    arguments: argparse.Namespace, comparison: Comparison, everything: Sequence[Run], *, alike: Collection[str]
) -> None:
    """`summary.json` of the runs that are done, and the picture where one is asked for.

    Runs in the time of another are missing only where some of them are done, or were asked for.
    """
    from _parts.one_run import write_result

    found = [(run, comparison.result(run)) for run in everything]
    results = [result for _, result in found if result is not None]
    if all(result["name"] == TEACHER for result in results):
        return
    preset = comparison.preset
    timed = arguments.timed or any(run.in_time and result is not None for run, result in found)
    facts = {
        "question": (__doc__ or "").split("\n")[0],
        "command": f"python benchmarks/methods_cifar10.py --preset {arguments.preset}"
        + (" --timed" if timed else "")
        + (" --validation" if arguments.validation else ""),
        "preset": arguments.preset,
        "protocol": PROTOCOL,
        "data": comparison.images,
        "student": dict(preset.student),
        "convnet": dict(preset.convnet),
        "teacher_model": dict(preset.teacher),
        "batch_size": preset.batch_size,
        "updates": preset.updates,
        "finetune_updates": preset.finetune_updates,
    }
    missing = [run.label for run, result in found if result is None and (timed or not run.in_time)]
    summary = summarise(results, missing=missing, facts=facts, alike=alike)
    file = comparison.out / "summary.json"
    write_result(file, summary)
    say_on_stderr(f"wrote {file}; {len(missing)} runs are missing" if missing else f"wrote {file}")
    if arguments.plot is not None:
        from _parts.picture import draw_top1

        draw_top1(summary, arguments.plot)
        say_on_stderr(f"wrote {arguments.plot}")


def time_methods(arguments: argparse.Namespace) -> None:
    """`timing.json`: seconds of an update, in turn, and peak memory, each in a process of its own."""
    import torch
    from _parts.cost import measure_seconds
    from _parts.one_run import write_result

    torch.set_num_threads(arguments.threads)
    preset = PRESETS[arguments.preset]
    only = (*arguments.only, "mae") if arguments.only else ()
    runs = [run for run in plan(preset, seeds=preset.seeds[:1], only=only) if run.method and run.row != TEACHER]
    say_on_stderr(f"timing {len(runs)} methods in turn, {ROUNDS} rounds")
    machine = describe_machine()
    rows = measure_seconds(runs, preset, rounds=ROUNDS, steps_per_round=STEPS_PER_ROUND)
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
    for run in runs:
        command = [sys.executable, str(Path(__file__).resolve()), "--preset", arguments.preset, "--memory", run.name]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
        rows[run.name] |= json.loads(done.stdout)
    file = timing_file(arguments)
    write_result(
        file,
        {
            "question": "What does an update of each method cost beside one of mae?",
            "command": f"python benchmarks/methods_cifar10.py --preset {arguments.preset} --timing",
            "preset": arguments.preset,
            "batch_size": preset.batch_size,
            "threads": torch.get_num_threads(),
            "rounds": ROUNDS,
            "steps_per_round": STEPS_PER_ROUND,
            "rows": rows,
            **machine,
        },
    )
    say_on_stderr(f"wrote {file}")


def print_memory(arguments: argparse.Namespace) -> None:
    """Peak memory of one method's updates in this process, as JSON on stdout."""
    from _parts.cost import measure_memory

    preset = PRESETS[arguments.preset]
    run = student_run(arguments.memory, preset, preset.seeds[0])
    sys.stdout.write(json.dumps(measure_memory(run, preset)) + "\n")


def timing_file(arguments: argparse.Namespace) -> Path:
    """What was measured of a preset; the images that are tested on do not matter to it."""
    file: Path = arguments.out / arguments.preset / "timing.json"
    return file


def folder_name(arguments: argparse.Namespace) -> str:
    """Of the results of a preset."""
    return f"{arguments.preset}-validation" if arguments.validation else str(arguments.preset)


def default_jobs() -> int:
    """So small a model gains nothing from a second thread, and a GPU is one."""
    return 1 if _has_gpu() else usable_cores()


def default_workers() -> int:
    """Processes that augment: on the CPU the training process does it, since the cores are taken."""
    return max(1, usable_cores() - 2) if _has_gpu() else 0


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in _words(text))


if __name__ == "__main__":
    main()
