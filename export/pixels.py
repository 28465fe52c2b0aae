"""Let every flavour of an `onnx` artifact take pixels: uint8 NHWC, normalised inside the graph.

    artifact = accept_pixels(load_artifact("student-onnx"), "student-pixels")

Quantizers work before this step, on normalised floats; a device works after it, and cannot get the statistics wrong.
"""

from __future__ import annotations

from pathlib import Path

from edgemim.artifact import Artifact
from edgemim.errors import ConfigError
from edgemim.export.passes.pixel_input import PIXELS, pixel_input
from edgemim.export.rewrite import require_onnx, rewrite_flavours
from edgemim.preprocess import Preprocess


def accept_pixels(artifact: Artifact, out: Path | str, *, overwrite: bool = False) -> Artifact:
    """Write a new artifact whose graphs take uint8 [B, H, W, 3] after resize and crop.

    Args:
        artifact: Of kind `onnx`, whose flavours take float32 [B, 3, H, W]; its golden files are copied.
        out: Folder of the new artifact.
        overwrite: Replace an artifact that lies at `out`.

    Raises:
        ArtifactError: `artifact` is another kind.
        ConfigError: It takes pixels already.
        EdgemimError: A flavour computes something else afterwards; nothing is written.
        OutputError: `out` exists, or cannot be written.
    """
    require_onnx(artifact)
    given = artifact.content["input"]
    if given["encoding"] == "pixels":
        raise ConfigError(f"{artifact.path} takes pixels already")
    preprocess = Preprocess.from_dict(artifact.content["preprocess"])
    batch, channels, height, width = given["shape"]
    return rewrite_flavours(
        artifact,
        out,
        lambda model: pixel_input(model, preprocess),
        content={
            "input": {
                "name": PIXELS,
                "dtype": "uint8",
                "layout": "NHWC",
                "shape": [batch, height, width, channels],
                "encoding": "pixels",
            }
        },
        stage="pixels",
        settings={"mean": list(preprocess.mean), "std": list(preprocess.std)},
        overwrite=overwrite,
    )
