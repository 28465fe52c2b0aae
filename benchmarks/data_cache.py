"""How many images/s does an epoch read from the decoded cache, per core, against decoding through `datasets`?

    python benchmarks/data_cache.py [--data PATH] [--out results/data_cache.json]

One thread on one core, in shuffled order, every pixel copied out of the file; the rows are measured in
turn, five rounds, and the median counts. Takes about a minute with CIFAR-10 (the default where its parquet
file is beside the checkout, else the bundled digits).

What would make the answer wrong: another process on the core; a cache that is not in memory (it is read once
before the clock starts, as in a second epoch of a set that fits); larger images, which take longer to copy.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgemim.data.cache import decode_cached
from edgemim.data.open import open_images

HERE = Path(__file__).parent
CIFAR10 = HERE.parent.parent / "shared" / "data" / "cifar10" / "train.parquet"
ROUNDS = 5
BATCH = 256
DECODED_PER_ROUND = 5000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.path.relpath(CIFAR10) if CIFAR10.exists() else "digits")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "data_cache.json")
    arguments = parser.parse_args()
    images = open_images(arguments.data)
    with tempfile.TemporaryDirectory() as cache:
        start = time.perf_counter()
        decoded = decode_cached(images, cache=Path(cache))
        build_s = time.perf_counter() - start
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        order = np.random.default_rng(0).permutation(len(images))
        rates = measure(cases(images, decoded, order))
        size_bytes = (decoded.folder / "pixels.u8").stat().st_size
    report = {
        "question": __doc__.split("\n")[0],
        "command": shlex.join(["python", *sys.argv]),
        "data": {
            "spec": arguments.data,
            "images": len(images),
            "fingerprint": images.fingerprint,
            "first_build_s": round(build_s, 2),
            "cache_size_bytes": size_bytes,
        },
        "rounds": ROUNDS,
        "rows": rows(rates),
        **environment(),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")
    for row in report["rows"]:
        print(f"{row['name']:<28} {row['images_per_s']:>10,.0f} images/s", file=sys.stderr)


def cases(images, decoded, order) -> dict[str, Callable[[], int]]:
    """Name of each row to a function that reads images and says how many."""
    one = np.empty_like(decoded.get(0))
    indices = order.tolist()

    def cache_per_image() -> int:
        for i in indices:
            np.copyto(one, decoded.get(i))
        return len(indices)

    def cache_batches() -> int:
        for start in range(0, len(order), BATCH):
            decoded.batch(order[start : start + BATCH])
        return len(order)

    def decode_per_image() -> int:
        for i in indices[:DECODED_PER_ROUND]:
            np.asarray(images.image(i))
        return min(len(indices), DECODED_PER_ROUND)

    return {
        "cache, one by one": cache_per_image,
        f"cache, batches of {BATCH}": cache_batches,
        "decoded through datasets": decode_per_image,
    }


def measure(functions: dict[str, Callable[[], int]]) -> dict[str, list[float]]:
    """Images/s of each function in each round, after one untimed round."""
    rates: dict[str, list[float]] = {name: [] for name in functions}
    for round_ in range(ROUNDS + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            count = function()
            if round_:
                rates[name].append(count / (time.perf_counter() - start))
    return rates


def rows(rates: dict[str, list[float]]) -> list[dict[str, object]]:
    return [
        {
            "name": name,
            "images_per_s": round(statistics.median(values)),
            "min": round(min(values)),
            "max": round(max(values)),
        }
        for name, values in rates.items()
    ]


def environment() -> dict[str, object]:
    """Device, versions and commit."""
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [line.split(":")[1].strip() for line in cpuinfo.splitlines() if line.startswith("model name")]
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False
    ).stdout.strip()
    packages = {p: importlib.metadata.version(p) for p in ("datasets", "numpy", "pillow", "pyarrow")}
    return {
        "device": {
            "cpu": models[0] if models else platform.machine(),
            "logical_cores": os.cpu_count(),
            "cores_used": 1,
            "clocks": "floating",
            "load_average_1min": round(os.getloadavg()[0], 2),
        },
        "versions": {"python": platform.python_version(), **packages},
        "commit": commit if len(commit) == 40 else None,
    }


if __name__ == "__main__":
    main()
