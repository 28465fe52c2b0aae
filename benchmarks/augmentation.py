"""Does the augmentation keep up: images/s of each way to crop a batch, beside what a training step takes?

    python benchmarks/augmentation.py [--batch-size 64] [--rounds 7]

A batch of stored images is cropped at random, resized and mirrored: one image after the other, all at once, and, where
there is a GPU, all at once on that. The feed runs on one core, as it would in a worker process. The step is forward,
backward and optimiser of MAE with a decoder of one block, the cheapest that anybody trains, on all cores or the GPU;
the share is that of the feed in the time of both, in a run without workers. Images are noise: the cost of a crop
depends on sizes alone. Stored sizes are those of the decoded cache: small images as they are, photos with twice the
model's side. Takes two minutes on two cores.

What would make the answer wrong: other work on the machine; images that have to be decoded first (sets beyond 8 GiB
are, in every epoch; the row `decode` is a photo of 500 x 375 pixels, JPEG).
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _parts.clock import Step, time_in_turn
from _parts.machine import command, describe_machine
from _parts.one_run import write_result
from _parts.side_by_side import say_on_stderr
from PIL import Image

from edgemim.masking.random import RandomMasking
from edgemim.methods._base import Batch
from edgemim.methods.mae import MAE, MAESettings
from edgemim.models.adapters import adapt
from edgemim.models.build import build_backbone
from edgemim.preprocess import Pixels, read_image
from edgemim.training.feed.augmentation import Augmentation
from edgemim.training.feed.draws import Crops
from edgemim.training.loop.optimiser import build_optimiser
from edgemim.training.settings.augmentation import AugmentationSettings
from edgemim.training.settings.training import TrainingSettings

HERE = Path(__file__).parent
EACH, TOGETHER, ON_DEVICE, DECODE, STEP = "one by one", "together", "together, on the GPU", "decode", "step"
CASES: dict[int, tuple[tuple[int, int], int]] = {  # side of the model: stored height and width, side of a patch
    32: ((32, 32), 4),
    48: ((48, 48), 6),
    64: ((64, 64), 8),
    96: ((96, 96), 12),
    224: ((448, 597), 16),
}


def main() -> None:
    """Measure every size, and write `results/augmentation.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sizes", type=int, nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "augmentation.json")
    arguments = parser.parse_args()
    machine = describe_machine()
    rows = []
    for side in arguments.sizes:
        measured = measure(side, arguments.batch_size, arguments.rounds)
        for row in measured:
            say_on_stderr(f"{side:>4} {row['way']:<22} {row['images_per_s']:>9,.0f} images/s")
        rows += measured
    result = {
        "question": (__doc__ or "").split("\n")[0],
        "command": command("augmentation.py"),
        "batch_size": arguments.batch_size,
        "rounds": arguments.rounds,
        "threads": {"feed": 1, "step": torch.get_num_threads()},
        "rows": rows,
        **machine,
    }
    write_result(arguments.out, result)
    say_on_stderr(f"wrote {arguments.out}")


def measure(side: int, batch_size: int, rounds: int) -> list[dict[str, Any]]:
    """Images/s of each way at one size, and of the step."""
    stored, patch = CASES[side]
    threads = torch.get_num_threads()
    seconds = time_in_turn(feeds(stored, side, batch_size, threads), rounds=rounds)
    seconds |= time_in_turn({STEP: training_step(side, patch, batch_size)}, rounds=max(3, rounds // 2))
    median = {name: float(np.median(values)) for name, values in seconds.items()}
    return [
        {
            "side": side,
            "stored": list(stored),
            "way": name,
            "images_per_s": round(batch_size / value, 1),
            "range": [round(batch_size / max(seconds[name]), 1), round(batch_size / min(seconds[name]), 1)],
            "share_of_run": None if name == STEP else round(value / (value + median[STEP]), 4),
        }
        for name, value in median.items()
    ]


def feeds(stored: tuple[int, int], side: int, batch_size: int, threads: int) -> dict[str, Step]:
    """One batch by each way."""
    pixels = np.random.default_rng(0).integers(0, 256, (batch_size, *stored, 3), dtype=np.uint8)
    augment = Augmentation(size=(side, side), settings=AugmentationSettings(), seed=0)
    places, shapes = [(0, index) for index in range(batch_size)], [stored] * batch_size

    def draw() -> Crops:
        return augment.draw(places, shapes)

    ways: dict[str, Step] = {
        EACH: _on_one_core(lambda: augment.crop_each(list(pixels), draw()), threads),
        TOGETHER: _on_one_core(lambda: augment.crop_together(torch.from_numpy(pixels), draw()), threads),
    }
    if torch.cuda.is_available():
        resident = torch.from_numpy(pixels).cuda()

        def on_device() -> None:
            crops = draw()
            moved = Crops(**{name: value.cuda(non_blocking=True) for name, value in vars(crops).items()})
            augment.crop_together(resident, moved)

        ways[ON_DEVICE] = on_device
    if side == max(CASES):
        photo = jpeg()
        ways[DECODE] = _on_one_core(lambda: [read_image(photo) for _ in range(batch_size)], threads)
    return ways


def training_step(side: int, patch: int, batch_size: int) -> Step:
    """Forward, backward and optimiser of MAE with ViT-Ti, in fp32."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backbone = build_backbone("vit_tiny_patch16_224", {"img_size": side, "patch_size": patch})
    settings = MAESettings(decoder_width=192, decoder_depth=1, decoder_heads=3)
    method = MAE(adapt(backbone), RandomMasking(), settings).to(device).train()
    optimiser = build_optimiser(method, TrainingSettings(steps=1))
    batch = Batch(torch.randn(batch_size, 3, side, side, device=device))
    rng = torch.Generator(device=device).manual_seed(0)

    def step() -> None:
        method(batch, rng).loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def jpeg() -> bytes:
    """A photo's worth of smooth noise, 500 x 375 pixels."""
    coarse: Pixels = np.random.default_rng(0).integers(0, 256, (38, 50, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def _on_one_core(work: Callable[[], object], threads: int) -> Step:
    def step() -> None:
        torch.set_num_threads(1)
        work()
        torch.set_num_threads(threads)

    return step


if __name__ == "__main__":
    main()
