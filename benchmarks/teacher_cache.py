"""How much faster is a step whose teacher looked beforehand, and after how many epochs has looking paid off?

    python benchmarks/teacher_cache.py [--batch-size 8] [--rounds 5] [--threads 2] [--images 64]

The same student learns by the same method twice: from a teacher that looks at every batch, and from what that teacher
saw in the same crops before, read from the shards of `--cache-teacher` on disk. A step is forward, backward and the
optimiser, and reading where there is something to read; the two are timed in turn. Filling is timed on its own, for
one view of `--images` generated images: reading, cropping, looking, writing. From these follows how often a view has
to come again before the time for filling is back. On a GPU the precision is bf16, elsewhere fp32. Takes about ten
minutes on two cores, and 3 GiB of memory.

What would make the answer wrong: other work on the machine; shards that are not in memory, since these are read again
and again (a set larger than memory is read at the speed of its disk); a teacher or student of other sizes, which move
the ratio as far as their costs do.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _parts.clock import Step, compared, time_in_turn
from _parts.machine import command, describe_machine
from _parts.memory import peak_memory_mib
from _parts.one_run import write_result
from _parts.side_by_side import say_on_stderr

from edgemim.config import build
from edgemim.masking.random import RandomMasking
from edgemim.methods import METHODS
from edgemim.methods._base import Batch, Method
from edgemim.models.adapters import adapt
from edgemim.models.build import build_backbone
from edgemim.models.teachers import Teacher, TeacherOrigin
from edgemim.preprocess import IMAGENET_MEAN, IMAGENET_STD, Pixels, Preprocess
from edgemim.training.feed.augmentation import Augmentation
from edgemim.training.feed.images import AugmentedImages
from edgemim.training.loop.optimiser import build_optimiser
from edgemim.training.loop.seeding import seeded
from edgemim.training.settings.augmentation import AugmentationSettings
from edgemim.training.settings.training import TrainingSettings
from edgemim.training.teacher_cache.eyes import Eyes
from edgemim.training.teacher_cache.filling import Filling
from edgemim.training.teacher_cache.rows import TeacherRows, taught_in

HERE = Path(__file__).parent
LIVE, STORED = "live teacher", "cached teacher"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BF16 = DEVICE.type == "cuda"
TINY, BASE = "vit_tiny_patch16_224", "vit_base_patch16_224"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A method, and what it trains from what."""

    method: str
    teacher: str = BASE
    student: str = TINY
    teacher_shape: dict[str, Any] = field(default_factory=dict)
    student_shape: dict[str, Any] = field(default_factory=dict)
    size: int = 224
    batch_size: int = 8


_SMALL: dict[str, Any] = {"img_size": 32, "patch_size": 4}
CASES = {
    "feature": Case(method="feature"),
    "tinymim": Case(method="tinymim"),
    "logit": Case(method="logit"),
    "maskdistill": Case(method="maskdistill"),
    "feature-32": Case(
        method="feature",
        teacher=TINY,
        teacher_shape={**_SMALL, "embed_dim": 192, "depth": 12, "num_heads": 6},
        student_shape={**_SMALL, "embed_dim": 128, "depth": 6, "num_heads": 4},
        size=32,
        batch_size=64,
    ),
}


class Generated:
    """Images of noise, in memory, a little larger than the crops."""

    def __init__(self, count: int, size: int) -> None:
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 256, (count, size * 8 // 7, size * 8 // 7, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.images)

    def get(self, i: int) -> Pixels:
        """Image `i`."""
        pixels: Pixels = self.images[i]
        return pixels


def main() -> None:
    """Measure every case, and write `results/teacher_cache.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=256 if BF16 else 0, help="0: 8, and 64 of 32 pixels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="0: torch's own choice")
    parser.add_argument("--images", type=int, default=1024 if BF16 else 64)
    parser.add_argument("--workers", type=int, default=0, help="processes that read and crop while a store is filled")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "teacher_cache.json")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    machine = describe_machine()
    rows = {}
    for name in arguments.cases:
        rows[name] = measure(CASES[name], arguments)
        row = rows[name]
        say_on_stderr(f"{name}: {row['speed_up']:.2f}x, pays after {row['pays_after']:.2f} epochs of a view")
        gc.collect()
    result = {
        "question": (__doc__ or "").split("\n")[0],
        "command": command("teacher_cache.py"),
        "images": arguments.images,
        "threads": torch.get_num_threads(),
        "rounds": arguments.rounds,
        "precision": "bf16" if BF16 else "fp32",
        "peak_mib": round(peak_memory_mib(), 1),
        "rows": rows,
        **machine,
    }
    write_result(arguments.out, result)
    say_on_stderr(f"wrote {arguments.out}")


def measure(case: Case, arguments: argparse.Namespace) -> dict[str, Any]:
    """The two steps of a case in turn, and what filling takes."""
    size = arguments.batch_size or case.batch_size
    contract = Preprocess(size=(case.size, case.size))
    settings = AugmentationSettings(views=1)
    images = AugmentedImages(
        Generated(arguments.images, case.size), None, Augmentation(size=contract.size, settings=settings, seed=0)
    )
    live, stored = method_of(case, contract), method_of(case, contract)
    teacher, asked = live.teacher, live.asked
    assert teacher is not None
    assert asked is not None
    with tempfile.TemporaryDirectory() as folder:
        eyes = Eyes(teacher, asked, contract, device=DEVICE, bf16=BF16)
        filling = Filling(images=images, eyes=eyes, workers=arguments.workers)
        store = filling.begin(Path(folder), {}, rows=len(images))
        started = time.perf_counter()
        filling.complete(store, store.shards)
        fill_s = (time.perf_counter() - started) / len(images)
        rows = TeacherRows(store, len(images), settings)
        assert stored.teacher is not None
        stored.teacher.dismiss()
        batch = batch_of(images, contract, size)
        differs = relative_difference(live, stored, batch, rows)
        steps = {LIVE: update(live, batch, None), STORED: update(stored, batch, rows)}
        timed = compared(time_in_turn(steps, rounds=arguments.rounds), LIVE)
        read_s = statistics.median(time_in_turn({"read": reading(batch, rows)}, rounds=arguments.rounds)["read"])
    saved_s = (timed[LIVE]["median_s"] - timed[STORED]["median_s"]) / size
    return {
        "method": case.method,
        "teacher": case.teacher,
        "student": case.student,
        "teacher_shape": case.teacher_shape,
        "student_shape": case.student_shape,
        "image_size": case.size,
        "batch_size": size,
        "speed_up": round(timed[LIVE]["median_s"] / timed[STORED]["median_s"], 3),
        "read_share": round(read_s / timed[STORED]["median_s"], 4),
        "bytes_per_image": store.row_bytes,
        "fill_images_per_s": round(1 / fill_s, 2),
        "pays_after": round(fill_s / saved_s, 3),
        "loss_differs_by": differs,
        "steps": timed,
    }


def method_of(case: Case, contract: Preprocess) -> Method:
    """A method with fresh weights, the same at every call."""
    cls: type[Method] = METHODS.get(case.method)
    with seeded(0):
        classes = 1000 if cls.teacher_head else 0
        teacher_model = build_backbone(case.teacher, case.teacher_shape, num_classes=classes)
        origin = TeacherOrigin(source=case.teacher, architecture=case.teacher, licence="none", sha256=None)
        teacher = Teacher(adapt(teacher_model), origin, mean=IMAGENET_MEAN, std=IMAGENET_STD, student=contract)
        student = adapt(build_backbone(case.student, case.student_shape))
        method = cls(student, RandomMasking(mask_ratio=0.5), build(cls.Settings, {}, "method"), teacher)
    return method.train()


def batch_of(images: AugmentedImages, contract: Preprocess, size: int) -> Batch:
    """Crops of the first view of as many images, normalised, on the device."""
    index = torch.arange(size) % len(images)
    pixels = images.__getitems__([(0, int(i)) for i in index])["images"].float()
    mean = torch.tensor(contract.mean).view(1, 3, 1, 1) * 255
    std = torch.tensor(contract.std).view(1, 3, 1, 1) * 255
    return Batch(((pixels - mean) / std).to(DEVICE), index=index)


def taught(batch: Batch, rows: TeacherRows | None) -> Batch:
    """The batch with what is stored of it."""
    if rows is None:
        return batch
    assert batch.index is not None
    raw = rows([0] * len(batch.index), batch.index.tolist())
    return replace(batch, taught=taught_in({name: tensor.to(DEVICE) for name, tensor in raw.items()}))


def relative_difference(live: Method, stored: Method, batch: Batch, rows: TeacherRows) -> float:
    """Of the two first losses."""
    losses = []
    for method, given in ((live, None), (stored, rows)):
        method.to(DEVICE)
        rng = torch.Generator(device=DEVICE).manual_seed(0)
        with torch.no_grad(), seeded(0), torch.autocast(DEVICE.type, torch.bfloat16, enabled=BF16):
            losses.append(float(method(taught(batch, given), rng).loss))
    return abs(losses[1] - losses[0]) / abs(losses[0])


def update(method: Method, batch: Batch, rows: TeacherRows | None) -> Step:
    """Reading where there is something to read, forward, backward and the optimiser."""
    optimiser = build_optimiser(method.to(DEVICE), TrainingSettings(steps=1))
    rng = torch.Generator(device=DEVICE).manual_seed(0)

    def step() -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=BF16):
            loss = method(taught(batch, rows), rng).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def reading(batch: Batch, rows: TeacherRows) -> Callable[[], None]:
    """Reading alone."""

    def read() -> None:
        taught(batch, rows)

    return read


if __name__ == "__main__":
    main()
