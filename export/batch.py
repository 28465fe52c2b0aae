"""Let every flavour of an `onnx` artifact take several images per run.

artifact = fix_batch(load_artifact("student-onnx"), "student-batch8", batch=8)

Quantizers work before this step, on one image at a time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgemim.artifact import Artifact
from edgemim.errors import ConfigError
from edgemim.export.passes.set_batch import set_batch
from edgemim.export.rewrite import require_onnx, rewrite_flavours


def fix_batch(artifact: Artifact, out: Path | str, *, batch: int, overwrite: bool = False) -> Artifact:
    """Write a new artifact whose graphs take `batch` images at once.

    Args:
        artifact: Of kind `onnx`, whose flavours take one image; its golden files are copied.
        out: Folder of the new artifact.
        batch: Images per run, at least 1.
        overwrite: Replace an artifact that lies at `out`.

    Raises:
        ArtifactError: `artifact` is another kind.
        ConfigError: `batch` is below 1, or the graphs take several images already.
        EdgemimError: An op whose result for several images cannot be told, or a flavour that mixes images; nothing is
            written.
        OutputError: `out` exists, or cannot be written.
    """
    if batch < 1:
        raise ConfigError(f"batch must be at least 1; got {batch}")
    require_onnx(artifact)
    content = artifact.content
    found = content["input"]["shape"][0]
    if found != 1:
        raise ConfigError(f"{artifact.path} takes {found} images per run already; export it again with --batch {batch}")
    return rewrite_flavours(
        artifact,
        out,
        lambda model: set_batch(model, batch),
        content={key: _with_batch(content[key], batch) for key in ("input", "output", "tokens") if content.get(key)},
        stage="batch",
        settings={"batch": batch},
        overwrite=overwrite,
    )


def _with_batch(value: dict[str, Any], batch: int) -> dict[str, Any]:
    return {**value, "shape": [batch, *value["shape"][1:]]}
