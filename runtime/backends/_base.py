"""The contract of a backend: compile a candidate for this device, open it, run it.

backend = BACKENDS.get("openvino")()
engine = backend.compile(bundle, candidate, cache, threads)
session = backend.open(engine)
outputs = session.run({"images": images})
"""

from __future__ import annotations

import contextlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgemim.errors import DeviceError, MissingDependencyError
from edgemim.runtime.bundle import Bundle
from edgemim.runtime.candidates import Candidate

Arrays = dict[str, npt.NDArray[Any]]

# What Python raises where a package that is installed cannot be loaded, most often for want of memory.
NOT_LOADED = (ImportError, OSError)


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A candidate made ready for this device.

    Attributes:
        backend: Name of the backend that made it and can open it.
        file: What is opened: the verified ONNX file, or one in the cache.
        options: Every setting given to the vendor library, as plain values for the report; with the file they
            are all that running it without edgemim takes.
        folder: Its place in the cache of engines; None if the backend needs none.
        compile_s: Seconds the compilation took, when it was done.
        compiled_first_ms: Milliseconds of the first run right after it, for comparison with the first run of an
            engine that was loaded; None if no such run was made.
        cached: True if it was compiled by an earlier run.
    """

    backend: str
    file: Path
    options: Mapping[str, Any]
    folder: Path | None
    compile_s: float
    cached: bool
    compiled_first_ms: float | None = None


class Session(ABC):
    """A loaded engine; batch and shapes are those of the bundle."""

    @property
    def device_ms(self) -> float | None:
        """Milliseconds that the latest run computed on the device, without copies; None where that is not known."""
        return None

    @abstractmethod
    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """Run once; by name in, by name out.

        Returns when the outputs are complete in host memory; the arrays belong to the caller and the next
        run does not touch them.

        Raises:
            DeviceError: The vendor library failed.
        """

    @abstractmethod
    def close(self) -> None:
        """Free what the session holds; it cannot run afterwards. A second call does nothing."""

    def facts(self) -> dict[str, Any]:
        """What turned out only while it ran, as plain values for the report."""
        return {}


class Backend(ABC):
    """One inference engine. Stateless: a subclass states five facts and fills two methods.

    Attributes:
        name: What the user writes, and the name of the file.
        module: Import name of the vendor package.
        alternatives: Import names of packages that serve where that is not installed.
        distributions: Names under which the vendor package may be installed, the usual one first.
        extra: The extra of edgemim that installs it.
        processor: What it runs on, for sentences ("slower on this CPU").
        obeys_isa_cap: Whether it keeps to ONEDNN_MAX_CPU_ISA (`edgemim.runtime.isa_cap`).
        compares_with_reference: Whether what it compiled is also compared with the reference backend running the
            same file, because its compiler is known to have changed what a model computes.
    """

    name: ClassVar[str]
    module: ClassVar[str]
    distributions: ClassVar[tuple[str, ...]]
    extra: ClassVar[str]
    processor: ClassVar[str]
    alternatives: ClassVar[tuple[str, ...]] = ()
    obeys_isa_cap: ClassVar[bool] = False
    compares_with_reference: ClassVar[bool] = False

    @abstractmethod
    def compile(self, bundle: Bundle, candidate: Candidate, cache: Path, threads: int) -> Engine:
        """Compile one candidate for this device, or find it in the cache; its `options` go over the backend's own.

        Args:
            bundle: The verified bundle.
            candidate: One of its candidates.
            cache: Folder of compiled engines; it need not exist.
            threads: Threads that one inference may use, at least 1.

        Raises:
            MissingDependencyError: The vendor package is not installed.
            DeviceError: The vendor library refuses the model.
        """

    @abstractmethod
    def open(self, engine: Engine) -> Session:
        """Load an engine that `compile` of this backend returned.

        Raises:
            DeviceError: The vendor library cannot load it.
        """

    def installed(self) -> bool:
        """Whether its package, or one that serves instead, is here; nothing is imported."""
        return any(importlib.util.find_spec(name) is not None for name in (self.module, *self.alternatives))

    def how_to_install(self) -> str:
        """The command that brings its package to this machine."""
        return f"pip install 'edgemim[{self.extra}]'"

    def available(self) -> str | None:
        """Why this backend cannot be used here, or None if it can; nothing is imported."""
        if not self.installed():
            return f"the package {self.module!r} is not installed; run: {self.how_to_install()}"
        return None

    def cannot_run(self, candidate: Candidate) -> str | None:
        """Why the installed version cannot run a candidate that is not bound to another backend, or None.

        Raises:
            MissingDependencyError: The vendor package is not installed.
            DeviceError: It cannot be loaded.
        """
        return None

    def free_device_memory(self) -> int | None:
        """Free bytes of the memory that the device has for itself; None where it computes in the host's.

        Raises:
            DeviceError: The device does not answer.
        """
        return None

    def forget(self, cache: Path) -> None:  # noqa: B027  (most backends keep nothing)
        """Drop what is kept between compilations beside the engines, so that the next one measures anew."""

    def version(self) -> str:
        """Version of the vendor package; "unknown" if it was installed without metadata."""
        for name in self.distributions:
            with contextlib.suppress(metadata.PackageNotFoundError):
                return metadata.version(name)
        return "unknown"


def require(backend: Backend, what: str | None = None) -> None:
    """Stop if the backend cannot be used here.

    Args:
        what: What needs it, for the message; by default the backend itself.

    Raises:
        MissingDependencyError: Its package is not there.
        DeviceError: What it runs on is not there.
    """
    what = what or f"backend {backend.name!r}"
    if not backend.installed():
        raise MissingDependencyError(what, backend.module, backend.extra, backend.how_to_install())
    reason = backend.available()
    if reason is not None:
        raise DeviceError(f"{what} cannot be used: {reason}")


@contextlib.contextmanager
def vendor_failures(name: str, action: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn a vendor library's own exceptions into one line that names the backend.

    Raises:
        DeviceError: One of `kinds` was raised inside the block.
    """
    try:
        yield
    except kinds as error:
        raise vendor_failure(name, action, error) from error


def vendor_failure(name: str, action: str, error: Exception) -> DeviceError:
    """A vendor library's exception as one line; for the one place, a run, where `vendor_failures` costs too much."""
    reason = " ".join(str(error).split())
    return DeviceError(f"{name} cannot {action}: {reason[:400] or type(error).__name__}")


def owned(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array itself if it owns its memory, else a copy."""
    return array if array.flags.owndata else np.array(array)
