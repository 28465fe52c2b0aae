"""`edgemim.runtime.jetpack`: a release of Linux for Tegra in, what it brings out."""

from __future__ import annotations

import pytest

from edgemim.runtime.jetpack import find_jetpack


@pytest.mark.parametrize(
    ("l4t", "name", "tensorrt", "python", "opset", "supported"),
    [
        ("32.7.4", "4", "8.2", "3.6", 13, False),
        ("35.1.0", "5.0", "8.4", "3.8", 17, False),
        ("35.4.1", "5.1", "8.5", "3.8", 17, False),
        ("36.3.0", "6.0", "8.6", "3.10", 17, True),
        ("36.4.3", "6.1 or 6.2", "10.3", "3.10", 20, True),
        ("36.5.2", "6.2", "10.3", "3.10", 20, True),
        ("38.2.0", "7.0 or 7.1", "10.13", "3.12", 20, True),
        ("39.2.1", "7.2", "10.16", "3.12", 20, True),
    ],
)
def test_what_a_release_brings(l4t: str, name: str, tensorrt: str, python: str, opset: int, supported: bool) -> None:
    jetpack = find_jetpack(l4t)
    assert jetpack is not None
    assert (jetpack.name, jetpack.tensorrt, jetpack.python, jetpack.opset) == (name, tensorrt, python, opset)
    assert (jetpack.unsupported is None) == (jetpack.cure is None) == supported
    assert jetpack.needs_numpy_1 == (python == "3.10")


def test_a_release_that_is_not_known_is_none() -> None:
    assert find_jetpack("99.0.0") is None
