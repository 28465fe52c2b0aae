"""What every test shares: the `system` marker, steady hypothesis runs, one thread per test process.

Must import with the base install and pytest alone: the runtime's tests run in such an environment.
"""

from __future__ import annotations

import os
import shutil
import signal

import pytest

# A shell that runs the tests in the background ignores SIGINT, and every process of the tests would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

try:
    import hypothesis
except ModuleNotFoundError:
    hypothesis = None  # type: ignore[assignment]

if hypothesis is not None:
    hypothesis.settings.register_profile("edgemim", deadline=None, derandomize=True, database=None)
    hypothesis.settings.load_profile("edgemim")

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Honour `@pytest.mark.system(binary, package)`.

    Without the binary the test is skipped with the reason; in CI, which runs `make system`,
    it fails, so that a test cannot vanish unnoticed.
    """
    for mark in item.iter_markers("system"):
        binary, package = mark.args
        if shutil.which(binary):
            continue
        reason = f"needs {binary!r} of the Debian package {package!r}; run: make system"
        if os.environ.get("CI") or os.environ.get("EDGEMIM_REQUIRE_SYSTEM"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
