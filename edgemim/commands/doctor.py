"""`edgemim doctor`: what this machine can do and what is in the way."""

from __future__ import annotations

import dataclasses
import sys

from edgemim.commands import _options as o
from edgemim.commands._output import emit


def doctor(json: o.Json = False) -> None:
    """Look at this machine: packages, instructions, backends, and what would mend each finding.

    Example: edgemim doctor
    """
    from edgemim.runtime.doctor import diagnose

    findings = [dataclasses.asdict(finding) for finding in diagnose()]
    if json:
        emit({"findings": findings}, as_json=True)
        return
    for finding in findings:
        cure = f"; {finding['cure']}" if finding["cure"] else ""
        sys.stdout.write(f"{finding['level']:<5}  {finding['what']}: {finding['why']}{cure}\n")
