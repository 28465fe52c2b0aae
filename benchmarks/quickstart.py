"""What does the whole story give on this machine: teacher, student, the same student without a teacher, INT8?

    python benchmarks/quickstart.py [--data PATH] [--minutes 15] [--seed 0]

Runs `edgemim quickstart` as a user would, in a process of its own, and keeps its JSON. Takes about as long as
`--minutes` says. The data is CIFAR-10 where its parquet files lie beside the checkout, else the bundled digits.

What would make the answer wrong: other work on the machine, which shortens the stages (their steps follow from
measured speed) and lengthens the latencies; one seed, whose accuracies differ by about their standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from _parts.machine import commit

HERE = Path(__file__).parent
CIFAR10 = HERE.parent.parent / "shared" / "data" / "cifar10"


def main() -> None:
    """Run, and write `results/quickstart_<data>.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.path.relpath(CIFAR10) if CIFAR10.exists() else "digits")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        command = ["edgemim", "quickstart", "--data", arguments.data, "--minutes", f"{arguments.minutes:g}"]
        command += ["--seed", str(arguments.seed), "--json"]
        here = [str(Path(sys.executable).parent / "edgemim"), *command[1:], "--out", f"{folder}/quickstart"]
        done = subprocess.run(here, stdout=subprocess.PIPE, check=True)
        report = json.loads(Path(folder, "quickstart", "bundle-report", "report.json").read_text("utf-8"))
    result = json.loads(done.stdout)
    for name in ("bundle", "report"):
        result[name] = Path(result[name]).name
    kept = {
        "question": (__doc__ or "").split("\n")[0],
        "command": shlex.join(["edgemim", "quickstart", "--data", Path(arguments.data).name, *command[4:]]),
        "load_average_1min_before": round(load_before, 2),
        "commit": commit(),
        "result": result,
        "candidates": report["candidates"],
        "caveats": report["caveats"],
        "protocol": report["protocol"],
    }
    out = HERE / "results" / f"quickstart_{Path(arguments.data).name}.json"
    out.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    sys.stderr.write(f"wrote {out}\n")


if __name__ == "__main__":
    main()
