"""Turn the report of a pip dry run (on stdin) into the lines of constraints.txt (on stdout).

`make constraints` calls it. The pins hold for the Python that resolved them, which is CI's.
"""

import json
import sys
from typing import Any

HEADER = """\
# Versions that CI tests, for Python {python} on {platform}; other Pythons resolve their own.
# Written by `make constraints` from pip's resolution of edgemim[all,dev]; not edited by hand.
"""


def main() -> None:
    """Write one `name==version` line per resolved package, sorted, without edgemim itself."""
    report = json.load(sys.stdin)
    environment = report["environment"]
    machine = f"{environment['platform_machine']} {environment['platform_system']}"
    sys.stdout.write(HEADER.format(python=environment["python_version"], platform=machine))
    for item in sorted(report["install"], key=_name):
        if _name(item) != "edgemim":
            sys.stdout.write(f"{_name(item)}=={item['metadata']['version']}\n")


def _name(item: dict[str, Any]) -> str:
    """The package's name as registries spell it."""
    return str(item["metadata"]["name"]).lower().replace("_", "-")


if __name__ == "__main__":
    main()
