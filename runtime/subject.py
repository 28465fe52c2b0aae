"""One bundle while it is measured: what is planned, and what was found so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemim.runtime.bundle import Bundle, load_bundle
from edgemim.runtime.device import Device
from edgemim.runtime.plan import Plan, make_plan
from edgemim.runtime.preparation import compare_preparation
from edgemim.runtime.settings import CheckSettings
from edgemim.runtime.timing import Preparation
from edgemim.runtime.trial import Trial


@dataclass(kw_only=True)
class Subject:
    """See the module's text.

    Attributes:
        name: Which of several it is; None where there is one.
        preparation: How this device prepares the golden images (`compare_preparation`).
        reference: The fp32 trial that the others are compared with, once that is known.
        preparing: How long preparing an image takes, once that was timed.
    """

    name: str | None
    bundle: Bundle
    plan: Plan
    trials: list[Trial]
    preparation: Mapping[str, Any]
    reference: Trial | None = None
    preparing: Preparation | None = None

    @property
    def prefix(self) -> str:
        """What names of arrays begin with."""
        return "" if self.name is None else f"{self.name}:"

    @property
    def images(self) -> int:
        """Evaluation and gallery images that every trial has to see."""
        if self.bundle.evaluation is None:
            return 0
        return len(self.bundle.evaluation) + (0 if self.bundle.gallery is None else len(self.bundle.gallery))

    def describe(self) -> dict[str, Any]:
        """The bundle, for the report."""
        bundle = self.bundle
        return {
            "path": str(bundle.artifact.path),
            "fingerprint": bundle.artifact.fingerprint,
            "architecture": bundle.architecture,
            "parameters": bundle.parameters,
            "target": bundle.target.name,
            "classes": None if bundle.class_names is None else len(bundle.class_names),
            "input": list(bundle.preprocess.size),
            "encoding": bundle.encoding,
            "batch": bundle.batch,
            "evaluation": _evaluation(bundle),
        }


def open_subject(path: Path | str, settings: CheckSettings, device: Device, *, name: str | None = None) -> Subject:
    """Read a bundle, plan what to run of it, and see that this device prepares images as it expects.

    Args:
        name: What its candidates are called after, where several bundles are measured together.

    Raises:
        ArtifactError, ConfigError, MissingDependencyError, DeviceError: See `check_bundle`.
    """
    bundle = load_bundle(path)
    plan = make_plan(bundle, settings.backends, settings.candidates, device)
    trials = [Trial(pair=pair, of=name) for pair in plan.pairs]
    return Subject(name=name, bundle=bundle, plan=plan, trials=trials, preparation=compare_preparation(bundle))


def _evaluation(bundle: Bundle) -> dict[str, Any] | None:
    images = bundle.evaluation
    if images is None:
        return None
    sha256 = bundle.artifact.files[images.path.name].sha256
    return {"count": len(images), "labelled": images.labels is not None, "sha256": sha256}
