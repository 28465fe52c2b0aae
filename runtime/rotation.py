"""What is timed of a session: runs whose inputs are another array each time, as those of a program are.

A session that is given the array of its latest run once more may skip what every new array costs: OpenVINO's plugin
sets itself up anew for each. A program prepares each image into an array of its own, so that it never has that.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from edgemim.runtime.backends._base import Session
from edgemim.runtime.bundle import Arrays, Bundle

# Few enough to stay in the caches, where preparing an image leaves it.
_MOST = 4


def rotating_run(session: Session, bundle: Bundle) -> Callable[[], Mapping[str, Any]]:
    """Runs the session on the next of a few golden batches whenever it is called, and returns the outputs."""
    run, following = session.run, itertools.cycle(timed_inputs(bundle)).__next__
    return lambda: run(following())


def timed_inputs(bundle: Bundle) -> list[Arrays]:
    """The first golden batches as a session takes them, two to four: a copy where there is only one."""
    found = [inputs for inputs, _ in itertools.islice(bundle.golden_batches(), _MOST)]
    if len(found) == 1:
        found.append({name: np.array(array) for name, array in found[0].items()})
    return found
