"""`--device`: what it may say, and that nothing of it becomes an option or a command."""

from __future__ import annotations

import pytest

from edgemim.errors import ConfigError
from edgemim.remote.address import parse_address, parse_addresses


@pytest.mark.parametrize(
    ("text", "options", "folder", "python"),
    [
        ("ssh://nano", ["--", "nano"], None, "python3"),
        ("ssh://Nano/", ["--", "Nano"], None, "python3"),  # a name in ~/.ssh/config, whose case counts
        ("ssh://me@nano:2222", ["-l", "me", "-p", "2222", "--", "nano"], None, "python3"),
        ("ssh://me%40corp@nano", ["-l", "me@corp", "--", "nano"], None, "python3"),
        ("ssh://[fe80::1%25eth0]:22", ["-p", "22", "--", "fe80::1%eth0"], None, "python3"),
        ("ssh://nano/media/my%20ssd", ["--", "nano"], "/media/my ssd", "python3"),
        ("ssh://nano/~/edge mim", ["--", "nano"], "edge mim", "python3"),
        ("ssh://nano?python=python3.12", ["--", "nano"], None, "python3.12"),
        ("ssh://nano?python=~/venv/bin/python", ["--", "nano"], None, "./venv/bin/python"),
        ("ssh://nano/x?python=/opt/c++/a%20b/python", ["--", "nano"], "/x", "/opt/c++/a b/python"),
    ],
)
def test_an_address_says_host_user_port_folder_and_python(
    text: str, options: list[str], folder: str | None, python: str
) -> None:
    address = parse_address(text)
    assert (address.ssh_options, address.folder, address.python) == (options, folder, python)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("nano", ""),
        ("me@nano", ""),
        ("http://nano", ""),
        ("ssh://", ""),
        ("ssh://:22", "'' is no host"),
        ("ssh://nano:ssh", "port"),
        ("ssh://nano:99999", "port"),
        ("ssh://-oProxyCommand=x", "'-oProxyCommand=x' is no host"),
        ("ssh://%2DoProxyCommand=x", "'-oProxyCommand=x' is no host"),
        ("ssh://-lroot@nano", "'-lroot' is no user"),
        ("ssh://a%20b", "'a b' is no host"),
        ("ssh://nano%0Areboot", "'nano\\nreboot' is no host"),
        ("ssh://me:secret@nano", "a password"),
        ("ssh://nano?pyton=python3", "not 'pyton=python3'"),
        ("ssh://nano?python=", "not 'python='"),
        ("ssh://nano?python=a%0Ab", "'a\\nb' is no path"),
        ("ssh://nano/a%0Ab", "'/a\\nb' is no path"),
        ("ssh://nano#x", "a # is written %23"),
    ],
)
def test_what_is_no_address_is_refused_and_the_form_is_told(text: str, found: str) -> None:
    with pytest.raises(ConfigError, match="a device is ssh://") as caught:
        parse_address(text)
    assert found in str(caught.value)


def test_a_password_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_address("ssh://me:secret@nano")
    assert "secret" not in str(caught.value)


def test_a_board_is_named_once() -> None:
    assert [a.host for a in parse_addresses(["ssh://a", "ssh://b", "ssh://a:2222"])] == ["a", "b", "a"]
    with pytest.raises(ConfigError, match="names ssh://a twice; name each board once"):
        parse_addresses(["ssh://a", "ssh://b", "ssh://a/folder"])


def test_the_commands_for_people_can_be_pasted() -> None:
    address = parse_address("ssh://it's@nano:2222")
    assert address.login == """ssh -p 2222 'it'"'"'s@nano'"""
    assert address.copy_key == """ssh-copy-id -p 2222 'it'"'"'s@nano'"""
