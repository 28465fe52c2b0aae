"""What `scripts/aarch64.sh` found, as JSON: tests, and every candidate's outputs on each core beside this machine's.

    python scripts/aarch64_summary.py FOLDER CORE...

Exits with 1, and says why, unless every test passed, every check came to its end, and each candidate's top-1 is this
machine's to within what its precision allows.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as Xml
from pathlib import Path
from typing import Any

# Of the evaluation images: fp32 kernels differ in the order of their sums, INT8 ones also in rounding.
_LARGEST_DIFFERENCE = {"fp32": 0.003, "int8": 0.01}


def main(folder: Path, cores: list[str]) -> int:
    """Print the summary; returns the exit code."""
    host = _candidates(_report(folder, "host"))
    checks = {core: _check(folder, core) for core in cores}
    tests = _tests(folder / "tests.xml")
    trouble = [f"tests: {tests}"] if tests["failed"] or not tests["passed"] else []
    for core, found in checks.items():
        trouble += [f"{core}: {words}" for words in _trouble(found, host)]
    summary = {
        "question": "Do the runtime's tests pass on 64-bit Arm, and does a check of a real bundle end right there?",
        "command": "make test-aarch64",
        "commit": _commit(),
        "emulated": f"qemu-user {_qemu()}: outputs count, latencies do not, and are left out",
        "tests": tests,
        "checks": checks,
        "host": host,
        "trouble": trouble,
    }
    sys.stdout.write(json.dumps(summary, indent=1) + "\n")
    sys.stderr.writelines(f"{line}\n" for line in trouble)
    return 1 if trouble else 0


def _check(folder: Path, core: str) -> dict[str, Any]:
    code = int((folder / f"report-{core}.code").read_text("ascii"))
    if code not in (0, 1):
        return {"exit_code": code}
    report = _report(folder, core)
    device = report["device"]
    kept = ("machine", "emulated", "system", "kernel", "python", "packages")
    return {
        "exit_code": code,
        "device": {key: device[key] for key in kept},
        "caveats": [caveat for caveat in report["caveats"] if "emulated" in caveat],
        "candidates": _candidates(report),
    }


def _report(folder: Path, name: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / f"report-{name}" / "report.json").read_text("utf-8"))
    return report


def _candidates(report: dict[str, Any]) -> dict[str, Any]:
    """By name, what does not depend on the clock."""
    return {
        f"{row['name']} on {row['backend']}": {
            "precision": row["precision"],
            "disqualified": row["disqualified"],
            "golden": row["golden"],
            "accuracy": row["accuracy"],
        }
        for row in report["candidates"]
    }


def _trouble(found: dict[str, Any], host: dict[str, Any]) -> list[str]:
    if "candidates" not in found:
        return [f"the check ended with exit code {found['exit_code']}"]
    wrong = []
    if found["device"]["emulated"] is not True or not found["caveats"]:
        wrong.append("the report does not say that it was emulated")
    for name, row in found["candidates"].items():
        other = host.get(name)
        if row["disqualified"] is not None or other is None:
            wrong.append(f"{name}: {row['disqualified'] or 'was not run on this machine'}")
            continue
        difference = abs(row["accuracy"]["top1"] - other["accuracy"]["top1"])
        if difference > _LARGEST_DIFFERENCE[row["precision"]]:
            wrong.append(f"{name}: top-1 differs by {difference:.4f} from this machine's")
    return wrong


def _tests(file: Path) -> dict[str, int]:
    if not file.exists():  # pytest itself crashed
        return {"passed": 0, "failed": 0, "skipped": 0}
    suites = Xml.parse(file).getroot().iter("testsuite")
    counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for suite in suites:
        for key in counts:
            counts[key] += int(suite.get(key, "0"))
    failed = counts["failures"] + counts["errors"]
    return {"passed": counts["tests"] - failed - counts["skipped"], "failed": failed, "skipped": counts["skipped"]}


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    return done.stdout.strip()


def _qemu() -> str:
    done = subprocess.run(["qemu-aarch64-static", "--version"], capture_output=True, text=True)
    match = re.search(r"version (\S+)", done.stdout)
    return match[1] if match else "of unknown version"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
