"""JetPack releases: what each brings, and whether edgemim runs on it.

Source: NVIDIA's release notes of Jetson Linux and JetPack; "Migrating from TensorRT 10.x to 11.x", Jetson, for why
JetPack 6 keeps TensorRT 10; onnx/onnx-tensorrt, docs/operators.md of each release branch, for the opsets
"""

from __future__ import annotations

from dataclasses import dataclass

# Newest ONNX opset that the parser of a TensorRT reads; all from 10.0 on read at least this.
_OPSET_8, _OPSET_10 = 17, 20


@dataclass(frozen=True, kw_only=True)
class JetPack:
    """One line of releases.

    Attributes:
        l4t: What its releases of Linux for Tegra begin with.
        name: Of the JetPack releases.
        tensorrt: What they bring, as `major.minor`.
        cuda: Major version that they bring.
        python: Of the system, for which the bindings of TensorRT are built.
        opset: Newest ONNX opset that this TensorRT reads.
        unsupported: Why edgemim does not run there; None if it does.
        cure: What to install instead; None if it is supported.
    """

    l4t: str
    name: str
    tensorrt: str
    cuda: int
    python: str
    opset: int
    unsupported: str | None = None
    cure: str | None = None

    @property
    def needs_numpy_1(self) -> bool:
        """Whether its bindings of TensorRT were built before numpy 2 and fail with it."""
        return self.python == "3.10"


def _old(l4t: str, name: str, tensorrt: str, cuda: int, python: str, opset: int) -> JetPack:
    return JetPack(
        l4t=l4t,
        name=name,
        tensorrt=tensorrt,
        cuda=cuda,
        python=python,
        opset=opset,
        unsupported=(
            f"TensorRT {tensorrt} has no LayerNormalization, which decomposed overflows in FP16, and its bindings are "
            f"for Python {python}, older than edgemim runs on"
        ),
        cure=(
            "flash JetPack 6.2 or 7.2 on an Orin; a Xavier or older module gets neither: there export --target arm64, "
            "which runs on the CPU"
        ),
    )


def _current(l4t: str, name: str, tensorrt: str, cuda: int, python: str, opset: int = _OPSET_10) -> JetPack:
    return JetPack(l4t=l4t, name=name, tensorrt=tensorrt, cuda=cuda, python=python, opset=opset)


# The first whose `l4t` begins a release is the one.
_JETPACKS = (
    _current("39.", "7.2", "10.16", 13, "3.12"),
    _current("38.", "7.0 or 7.1", "10.13", 13, "3.12"),
    _current("36.5.", "6.2", "10.3", 12, "3.10"),
    _current("36.4.", "6.1 or 6.2", "10.3", 12, "3.10"),
    _current("36.", "6.0", "8.6", 12, "3.10", _OPSET_8),
    _old("35.1.", "5.0", "8.4", 11, "3.8", _OPSET_8),
    _old("35.", "5.1", "8.5", 11, "3.8", _OPSET_8),
    _old("34.", "5.0", "8.4", 11, "3.8", _OPSET_8),
    _old("32.", "4", "8.2", 10, "3.6", 13),
)


def find_jetpack(l4t: str) -> JetPack | None:
    """The JetPack of a release of Linux for Tegra such as `36.4.3`; None if it is not known."""
    return next((jetpack for jetpack in _JETPACKS if l4t.startswith(jetpack.l4t)), None)
