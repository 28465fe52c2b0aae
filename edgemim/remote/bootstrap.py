"""How Python on the board gets to run the files of `edgemim/remote/board`, which it does not have.

The command that the remote shell is given is always the same. What the user wrote, the name of the interpreter, comes
on standard input, where no shell looks at it.
"""

from __future__ import annotations

import json
from importlib import resources

# A line with the interpreter, then a line of Python for it. `read` takes not a byte more than its line.
COMMAND = """exec sh -c 'IFS= read -r python; IFS= read -r code; exec "$python" -X utf8 -c "$code"'"""
MARKER = b"edgemim-agent "
_FILES = ("link", "store", "interpreter", "run", "agent")  # each imports only those before it
_FIRST = (
    f'import sys; print("{MARKER.decode().strip()}", *sys.version_info[:2]); sys.stdout.flush(); '
    'stdin = sys.stdin.buffer; exec(compile(stdin.read(int(stdin.readline())), "edgemim", "exec"))'
)
# A module that is in sys.modules is imported from there, whether or not its package exists.
_LOADER = """
import json, sys, types
for name, source in json.loads({sources!r}):
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
module.main()
"""


def first_lines(python: str) -> bytes:
    """What the command reads first; Python answers with `MARKER` and its version."""
    return f"{python}\n{_FIRST}\n".encode()


def agent_source() -> bytes:
    """What Python reads after that: a length, and so many bytes of source."""
    folder = resources.files("edgemim.remote.board")
    sources = [
        (f"edgemim.remote.board.{name}", folder.joinpath(f"{name}.py").read_text(encoding="utf-8")) for name in _FILES
    ]
    source = _LOADER.format(sources=json.dumps(sources)).encode()
    return b"%d\n" % len(source) + source
