"""One process that reads a stream as training does, and says on stdout, line by line, what it saw and what it took:
`python -m _parts.stream_run SHARDS CACHE --workers 2 --window-mb 16`.

With `--stop STEP` it kills itself after that step, as a machine that fails would.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from edgemim.data.streams.open import open_stream
from edgemim.training.feed.augmentation import Augmentation
from edgemim.training.feed.images import AugmentedImages, loader
from edgemim.training.feed.streamed import StreamedImages
from edgemim.training.feed.windows import WindowOrder
from edgemim.training.settings.augmentation import AugmentationSettings
from edgemim.training.settings.stream import StreamSettings

BATCH = 256
SIZE = (32, 32)
LOOKS = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--window-mb", type=int, required=True)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--stop", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    before = memory_mib()
    started = time.perf_counter()
    index = open_stream(f"stream:{arguments.shards}", cache=arguments.cache).train
    tell(own_mib=before, index_s=round(time.perf_counter() - started, 2))
    settings = StreamSettings(window_mb=arguments.window_mb)
    streamed = StreamedImages(index, settings)
    # Whole images, mirrored or not: little work beside what is measured.
    augmentation = Augmentation(size=SIZE, settings=AugmentationSettings(min_scale=1.0, max_aspect=1.0), seed=0)
    images = AugmentedImages(streamed, None, augmentation)
    steps = len(index) // BATCH
    order = WindowOrder(
        units=streamed.units,
        settings=settings,
        batch_size=BATCH,
        steps=steps,
        seed=0,
        start_step=arguments.start,
    )
    every = max(1, steps // LOOKS)
    started = time.perf_counter()
    for step, batch in enumerate(loader(images, order, workers=arguments.workers), start=arguments.start + 1):
        content = batch["images"].numpy().tobytes() + batch["index"].numpy().tobytes()
        tell(seen=batch["index"].tolist(), digests=[hashlib.sha256(content).hexdigest()[:16]])
        if step % every == 0:
            tell(memory_mib=[round(memory_mib() - before, 1)])
        if step == arguments.stop:
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    seconds = time.perf_counter() - started
    tell(steps=steps, images_per_s=round((steps - arguments.start) * BATCH / seconds), units=len(index.rows))


def tell(**facts: Any) -> None:
    """One line of JSON; lists of several lines belong together."""
    sys.stdout.write(json.dumps(facts) + "\n")


def memory_mib() -> float:
    """Resident memory of this process and its workers that is theirs, each shared page counted once, in MiB.

    Pages of libraries do not count: whose they are changes with every other process that maps the same files.
    """
    processes = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    return sum(_own_mib(pid) for pid in processes if pid is not None)


def _own_mib(pid: int) -> float:
    lines = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    sizes = {name: int(size) for name, size, *_ in lines}
    return (sizes["Pss_Anon:"] + sizes["Pss_Shmem:"]) / 1024


if __name__ == "__main__":
    main()
