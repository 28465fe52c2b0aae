"""Where a board is: `ssh://[user@]host[:port][/folder][?python=INTERPRETER]`.

    ssh://nano                                    a host of ~/.ssh/config, or its name
    ssh://me@192.168.55.1:2222                    user and port
    ssh://nano/media/ssd/edgemim                  everything goes there instead of ~/.cache/edgemim
    ssh://nano/~/edgemim?python=~/venv/bin/python  both below the home folder

Percent signs escape other characters, as in any URL: a space is `%20`.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from edgemim.errors import ConfigError

_FORM = "ssh://[user@]host[:port][/folder][?python=INTERPRETER]"


@dataclass(frozen=True, kw_only=True)
class Address:
    """One board.

    Attributes:
        text: As the user wrote it, up to the port; names the board in messages.
        host, user, port: For ssh; None leaves it to ~/.ssh/config.
        folder: Where files go on the board, absolute or below the home folder; None for its cache folder.
        python: The interpreter there: a name to be looked up, or a path, absolute or below the home folder.
    """

    text: str
    host: str
    user: str | None = None
    port: int | None = None
    folder: str | None = None
    python: str = "python3"

    @property
    def ssh_options(self) -> list[str]:
        """User and port as options of ssh, and then the host; ssh takes nothing of it for an option."""
        user = [] if self.user is None else ["-l", self.user]
        port = [] if self.port is None else ["-p", str(self.port)]
        return [*user, *port, "--", self.host]

    @property
    def login(self) -> str:
        """The command with which a person logs in there."""
        options = [] if self.port is None else ["-p", str(self.port)]
        return shlex.join(["ssh", *options, self._target])

    @property
    def copy_key(self) -> str:
        """The command with which a person makes the board accept their key."""
        options = [] if self.port is None else ["-p", str(self.port)]
        return shlex.join(["ssh-copy-id", *options, self._target])

    @property
    def _target(self) -> str:
        return self.host if self.user is None else f"{self.user}@{self.host}"


def parse_address(text: str) -> Address:
    """Read one `--device`.

    Raises:
        ConfigError: Not of the form above.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise _wrong(text, str(error).lower()) from error
    if parts.scheme != "ssh" or not parts.netloc or parts.fragment:
        raise _wrong(text, "a # is written %23" if parts.fragment else "")
    if parts.password is not None:
        raise ConfigError(f"a device is {_FORM}; got a password, which ssh takes from nobody but you: use a key")
    host = unquote(parts.netloc.rpartition("@")[2])
    host = host[1 : host.index("]")] if host.startswith("[") and "]" in host else host.partition(":")[0]
    user = unquote(parts.username) if parts.username else None
    for what, value in (("host", host), ("user", user)):
        if value is not None and (not value or value.startswith("-") or not value.isprintable() or " " in value):
            raise _wrong(text, f"{value!r} is no {what}")
    python, folder = _python(text, parts.query), _folder(unquote(parts.path))
    for value in (python, folder or ""):
        if not all(character.isprintable() for character in value):
            raise _wrong(text, f"{value!r} is no path")
    return Address(text=f"ssh://{parts.netloc}", host=host, user=user, port=port, folder=folder, python=python)


def parse_addresses(texts: Sequence[str]) -> list[Address]:
    """Read every `--device`.

    Raises:
        ConfigError: One is not of the form above, or is named twice: two checks at once would disturb each other.
    """
    addresses = [parse_address(text) for text in texts]
    seen: set[tuple[str | None, str, int | None]] = set()
    for address in addresses:
        key = (address.user, address.host, address.port)
        if key in seen:
            raise ConfigError(f"--device names {address.text} twice; name each board once")
        seen.add(key)
    return addresses


def _python(text: str, query: str) -> str:
    name, _, value = query.partition("=")
    if query and (name != "python" or not value):
        raise _wrong(text, f"only ?python=INTERPRETER may follow, not {query!r}")
    python = unquote(value) or "python3"
    # ssh starts in the home folder; a bare name would be looked up among the commands.
    return f"./{python[2:]}" if python.startswith("~/") else python


def _folder(path: str) -> str | None:
    if path in ("", "/"):
        return None
    return path.removeprefix("/~/") if path.startswith("/~/") else path


def _wrong(text: str, why: str) -> ConfigError:
    return ConfigError(f"a device is {_FORM}; got {text!r}" + (f": {why}" if why else ""))
