"""Which of NVIDIA's two packages is here, and what it can do: found by looking for names, never by version numbers.

`tensorrt` comes with JetPack (apt) or from NVIDIA's index, `tensorrt_rtx` builds engines for GeForce RTX GPUs that
need not be present. Their Python API is the same but for what the properties of `Library` tell apart.

Source: NVIDIA/TensorRT, python/src/infer at the tags 8.5 to 11; tensorrt_rtx 1.7.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgemim.errors import DeviceError, MissingDependencyError

TENSORRT, TENSORRT_RTX = "tensorrt", "tensorrt_rtx"
# What installs them, by module: an extra of edgemim.
EXTRAS = {TENSORRT: "tensorrt", TENSORRT_RTX: "rtx"}
# The only ONNX opset that TensorRT 8 reads to the end; from 10 on it reads every one that edgemim writes.
_OPSET_WITHOUT_TYPES = 17
_LONGEST_REASON = 300
_APT = "sudo apt install python3-libnvinfer, and use the system's Python or a venv made with --system-site-packages"


@dataclass(frozen=True, kw_only=True)
class Library:
    """One imported package.

    Attributes:
        name: Its import name, `tensorrt` or `tensorrt_rtx`.
        module: The package itself; called `trt` where its names are used.
    """

    name: str
    module: Any = field(repr=False)

    @property
    def version(self) -> str:
        """As the package says, such as "10.3.0"."""
        return str(self.module.__version__)

    @property
    def title(self) -> str:
        """For sentences: `TensorRT 10.3.0`, `TensorRT-RTX 1.7.1.116`."""
        return f"{'TensorRT-RTX' if self.name == TENSORRT_RTX else 'TensorRT'} {self.version}"

    @property
    def takes_types_from_the_graph(self) -> bool:
        """Whether a network can be strongly typed (10.0 on); if not, flags choose the precision."""
        return _member(self.module, "NetworkDefinitionCreationFlag", "STRONGLY_TYPED") is not None

    @property
    def newest_opset(self) -> int | None:
        """Newest ONNX opset that its parser reads; None if that is any that edgemim writes."""
        return None if self.takes_types_from_the_graph else _OPSET_WITHOUT_TYPES

    @property
    def builds_for_other_gpus(self) -> bool:
        """Whether it builds for GPUs named in the configuration, none of which need be here (TensorRT-RTX)."""
        return hasattr(self.module.IBuilderConfig, "set_compute_capability")

    @property
    def trouble(self) -> str | None:
        """Why edgemim cannot use this version at all; None if it can."""
        if any(hasattr(self.module.INetworkDefinition, name) for name in ("add_normalization", "add_normalization_v2")):
            return None
        return (
            f"{self.title} has no layer normalisation (it is older than 8.6, as on JetPack 5): taken apart, that "
            "overflows in FP16; use JetPack 6 or newer"
        )

    def flag(self, name: str) -> Any | None:
        """The builder flag of that name, such as FP16 (8.6 to 10) or TF32; None where it does not exist."""
        return _member(self.module, "BuilderFlag", name)

    def network_flags(self) -> int:
        """What `Builder.create_network` takes: strongly typed where that exists, else an explicit batch.

        The numbers behind these names differ between versions.
        """
        for name in ("STRONGLY_TYPED", "EXPLICIT_BATCH"):
            flag = _member(self.module, "NetworkDefinitionCreationFlag", name)
            if flag is not None:
                return 1 << int(flag)
        return 0


def installed() -> tuple[str, ...]:
    """Import names of the packages that are here, `tensorrt` first; nothing is imported."""
    return tuple(name for name in EXTRAS if importlib.util.find_spec(name) is not None)


def how_to_install(root: Path = Path("/")) -> str:
    """The command that brings `tensorrt` to this machine: apt on a Jetson, whose pip packages do not work."""
    on_jetson = (root / "etc/nv_tegra_release").exists()
    return _APT if on_jetson else f"pip install 'edgemim[{EXTRAS[TENSORRT]}]'"


def load_library(name: str | None = None) -> Library:
    """Import one of the packages.

    Args:
        name: `tensorrt` or `tensorrt_rtx`; None for the first that is installed.

    Raises:
        MissingDependencyError: It is not installed.
        DeviceError: It is installed, and cannot be loaded.
    """
    here = installed()
    wanted = name or (here[0] if here else TENSORRT)
    if wanted not in here:
        what = "building for NVIDIA GPUs" if wanted == TENSORRT else "NVIDIA's parser and builder"
        raise MissingDependencyError(what, wanted, EXTRAS[wanted])
    try:
        return Library(name=wanted, module=importlib.import_module(wanted))
    except (ImportError, OSError, RuntimeError) as error:  # a library behind it is missing, or numpy is too new
        reason = " ".join(str(error).split())[:_LONGEST_REASON] or type(error).__name__
        raise DeviceError(f"{wanted} is installed and cannot be loaded: {reason}; see: edgemim doctor") from error


def _member(module: Any, enum: str, name: str) -> Any | None:
    """A member of one of the package's enums; None if the enum or the member does not exist."""
    with contextlib.suppress(AttributeError):
        return getattr(module, enum).__members__.get(name)
    return None
