"""`from edgemim.runtime import load`: a bundle becomes something to call."""

from __future__ import annotations

from pathlib import Path

from edgemim.runtime.backends._base import Backend
from edgemim.runtime.cache import default_cache
from edgemim.runtime.device import describe_device
from edgemim.runtime.predict.choice import find_choice
from edgemim.runtime.predict.engine import offer_engine
from edgemim.runtime.predict.model import Model


def load(
    path: Path | str,
    *,
    candidate: str | None = None,
    backend: str | Backend | None = None,
    threads: int | None = None,
    cache: Path | None = None,
) -> Model:
    """Open the candidate that ships, and see that it computes the model in the bundle.

        with load("runs/bundle") as model:
            logits = model(frame)                       # uint8 [H, W, 3] of any size; float32 [1, K]
            (best, *_), = model.predict("cat.jpg")      # best.name, best.score

    Every hash is checked, the engine is taken from the report or the cache or compiled, and the golden inputs are run
    and compared before the model is returned, so that its first call is not its first run.

    Args:
        path: A bundle folder; or a report folder, for the candidate that it chose, of the bundle that it is about.
        candidate: Name of a candidate. By default the chosen one of the report, or of `BUNDLE-report` where that was
            made on a device like this, or the one that was chosen when the bundle was made.
        backend: By default the one that was chosen with the candidate; for a candidate that is named here, the first
            of the target's that is installed and can run it.
        threads: Of one inference. By default as in the check that chose the candidate, or the physical cores.
        cache: Folder of compiled engines; by default the user's.

    Raises:
        ArtifactError: Neither a bundle nor a report, an altered one, or the bundle of a report is gone or altered.
        ConfigError: An unknown name, a candidate that cannot run here, or nothing says which one to run.
        MissingDependencyError: The backend's package is not installed.
        OutputError: The cache cannot be written.
        DeviceError: The vendor library fails, or the engine computes something else.
    """
    choice = find_choice(path, describe_device(), candidate=candidate, backend=backend, threads=threads)
    used, cache = choice.pair.backend, cache or default_cache()
    if choice.report is not None:
        offer_engine(choice.report, used.name, cache)
    model = Model(choice, used.open(used.compile(choice.bundle, choice.pair.candidate, cache, choice.threads)))
    try:
        model.check_golden()
    except BaseException:
        model.close()
        raise
    return model
