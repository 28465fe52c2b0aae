"""Why ssh could not do it, in one line with the cure: from its exit code and what it wrote on standard error."""

from __future__ import annotations

import re
from collections.abc import Sequence

from edgemim.errors import EdgemimError
from edgemim.remote.address import Address

SSH_FAILED = 255
_NOT_FOUND = (126, 127)
# What ssh and its libraries write, and what it means for {text}; the first that is found counts.
_REASONS = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED",
        "{text} shows another host key than the one this machine knows; if the board was set up anew, "
        "run: ssh-keygen -R {known}",
    ),
    (
        r"Host key verification failed|No .* host key is known",
        "{text} is not known to this machine; log in once and compare its fingerprint: {login}",
    ),
    (
        r"Permission denied|Too many authentication failures|No supported authentication methods",
        "{text} refuses the keys of this machine ({line}); run: {copy_key}",
    ),
    (r"Could not resolve hostname", "there is no host {host!r} ({line}); correct the name, or add it to ~/.ssh/config"),
    (
        r"Connection refused",
        "{text} takes no connection ({line}); start its ssh server (sudo systemctl enable --now ssh), "
        "or correct the port",
    ),
    (
        r"timed out|No route to host|Network is unreachable|Host is down",
        "{text} does not answer ({line}); is it switched on, and on this network?",
    ),
    (r"[Bb]ad configuration option|terminating, \d+ bad|Bad owner or permissions", "ssh refuses its settings: {line}"),
)


class UnreachableError(EdgemimError):
    """No check could be started on a board; the user can mend it."""


def explain(address: Address, code: int, errors: Sequence[str], noise: str) -> UnreachableError:
    """The error for a connection that ended before Python answered.

    Args:
        code: ssh's exit code: its own, or that of the remote shell.
        errors: Lines that ssh and the remote shell wrote on standard error.
        noise: What the board wrote on standard output instead of our marker.
    """
    last = errors[-1] if errors else noise or f"exit code {code}"
    if code in _NOT_FOUND:
        return UnreachableError(
            f"{address.text} cannot run {address.python!r} ({last}); run there: "
            "sudo apt install python3 python3-numpy python3-pil, or name another interpreter with ?python="
        )
    for pattern, message in _REASONS if code == SSH_FAILED else ():
        line = next((line for line in errors if re.search(pattern, line)), None)
        if line is not None:
            known = address.host if address.port is None else f"'[{address.host}]:{address.port}'"
            facts = {"login": address.login, "copy_key": address.copy_key, "host": address.host, "known": known}
            return UnreachableError(message.format(text=address.text, line=line, **facts))
    return UnreachableError(f"{address.text} did not start Python but said: {last}")
