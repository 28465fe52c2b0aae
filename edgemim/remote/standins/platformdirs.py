"""In place of platformdirs: the folder that it gives on Linux.

Source: XDG Base Directory Specification, version 0.8.
"""

from __future__ import annotations

import os

__version__ = "0"


def user_cache_dir(appname: str) -> str:
    """Where an application keeps what it can make again."""
    folder = os.environ.get("XDG_CACHE_HOME", "")
    return os.path.join(folder if folder.strip() else os.path.expanduser("~/.cache"), appname)
