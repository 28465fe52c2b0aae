"""Does reading a stream of 200,000 images take no more memory than its window, and is none lost on resume?

    python benchmarks/streaming.py [--images 200000] [--work DIR] [--out results/streaming.json]

Generated JPEG files of 32 x 32 pixels lie in parquet and in webdataset shards. Each row is a process of its own that
indexes them, reads one epoch as training does (decoded, mirrored, in batches of 256), and notes its memory 50 times on
the way: what is resident of its own and its workers' memory, above what it had before it opened the stream.
The window is 16 MB, less than a tenth of the set. At last a process reads to the middle of the epoch and is killed, and
another goes on from there; what both saw is compared with what one process saw alone, images and pixels.
Takes about five minutes on two cores, and 1 GB of disk in the work folder.

What would make the answer wrong: for the memory, nothing but another allocator. For images/s: other work on the
machine; shards that are not in the page cache, as those of a set larger than memory; larger images, which take longer.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _parts.machine import describe_machine
from _parts.one_run import write_result
from _parts.side_by_side import say_on_stderr
from PIL import Image

HERE = Path(__file__).parent
SIDE = 32
PER_SHARD = 10_000
PER_GROUP = 500
WINDOW_MB = 16
CASES = (("tar", 0), ("parquet", 2))


def main() -> None:
    """Write the shards, read them, and write `results/streaming.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--work", type=Path, help="Folder for the shards; a temporary one by default.")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "streaming.json")
    arguments = parser.parse_args()
    machine = describe_machine()
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        shards = write_shards(Path(folder), arguments.images)
        rows = [epoch(shards[kind], kind, workers) for kind, workers in CASES]
        resumed = resume(shards["parquet"], rows[1])
        sizes = {kind: sum(f.stat().st_size for f in shards[kind].iterdir()) for kind in shards}
    result = {
        "question": (__doc__ or "").split("\n")[0],
        "command": f"python benchmarks/streaming.py --images {arguments.images}",
        "images": arguments.images,
        "image_side": SIDE,
        "size_mb": {kind: round(size / 1e6, 1) for kind, size in sizes.items()},
        "window_mb": WINDOW_MB,
        "rows": [{k: v for k, v in row.items() if k not in ("seen", "digests")} for row in rows],
        "resumed": resumed,
        **machine,
    }
    write_result(arguments.out, result)
    say_on_stderr(f"wrote {arguments.out}")


def write_shards(folder: Path, images: int) -> dict[str, Path]:
    """The same images as parquet and as tar, in shards of 10,000."""
    folders = {kind: folder / kind for kind in ("parquet", "tar")}
    for kind in folders.values():
        kind.mkdir()
    for shard, first in enumerate(range(0, images, PER_SHARD)):
        encoded = list(jpegs(range(first, min(images, first + PER_SHARD))))
        table = pa.table({"image": pa.array(encoded, pa.binary())})
        pq.write_table(table, folders["parquet"] / f"{shard:04d}.parquet", row_group_size=PER_GROUP)
        with tarfile.open(folders["tar"] / f"{shard:04d}.tar", "w") as tar:
            for k, data in enumerate(encoded):
                member = tarfile.TarInfo(f"{first + k:08d}.jpg")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return folders


def jpegs(numbers: range) -> Iterator[bytes]:
    """Smooth noise, about as large as photos of that size."""
    rng = np.random.default_rng(numbers.start)
    for _ in numbers:
        noise = Image.fromarray(rng.integers(0, 256, (SIDE // 4, SIDE // 4, 3), dtype=np.uint8))
        stream = io.BytesIO()
        noise.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=85)
        yield stream.getvalue()


def epoch(shards: Path, kind: str, workers: int) -> dict[str, Any]:
    """One epoch, read by a process of its own."""
    with tempfile.TemporaryDirectory() as cache:
        facts = read(shards, cache, workers=workers)
    memory = facts["memory_mib"]
    quarter = len(memory) // 4
    early, late = max(memory[quarter : 2 * quarter]), max(memory[-quarter:])
    facts |= {"format": kind, "workers": workers, "growth_mib": round(late - early, 1), "peak_mib": max(memory)}
    say_on_stderr(f"{kind}, {workers} workers: peak {max(memory)} MiB, {facts['images_per_s']} images/s")
    return facts


def resume(shards: Path, whole: dict[str, Any]) -> dict[str, Any]:
    """Read to the middle of an epoch, die, go on; compared with one process that read it all."""
    half = whole["steps"] // 2
    with tempfile.TemporaryDirectory() as cache:
        killed = read(shards, cache, workers=2, stop=half)
        rest = read(shards, cache, workers=2, start=half)
    seen = sorted(killed["seen"] + rest["seen"])
    return {
        "format": "parquet",
        "workers": 2,
        "killed_at_step": half,
        "steps": whole["steps"],
        "each_image_once": seen == sorted(whole["seen"]),
        "same_batches": killed["digests"] + rest["digests"] == whole["digests"],
    }


def read(shards: Path, cache: str, *, workers: int, start: int = 0, stop: int = 0) -> dict[str, Any]:
    """What a process of its own says of itself, line by line until its end; with `stop` it kills itself there."""
    numbers = ["--workers", str(workers), "--window-mb", str(WINDOW_MB), "--start", str(start), "--stop", str(stop)]
    command = [sys.executable, "-m", "_parts.stream_run", str(shards), cache, *numbers]
    done = subprocess.run(command, cwd=HERE, stdout=subprocess.PIPE, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == (-9 if stop else 0), done.returncode
    facts: dict[str, Any] = {}
    for line in lines:
        for name, value in line.items():
            facts[name] = facts.get(name, []) + value if isinstance(value, list) else value
    return facts


if __name__ == "__main__":
    main()
