"""Whether two models that saw the same images differ in how many they get right, or only by luck.

Source: McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
    Psychometrika 12, 1947; in its exact form, the binomial test on the images that only one of the two gets right.
"""

from __future__ import annotations

import numpy as np


def mcnemar_p(to_wrong: int, to_right: int) -> float:
    """Probability of a split at least as uneven if either model were as likely to be the one that is right.

    Args:
        to_wrong: Images that the reference alone gets right.
        to_right: Images that the candidate alone gets right.

    Returns:
        Two-sided exact p-value in [0, 1]; 1 where there is no such image.
    """
    total, fewer = to_wrong + to_right, min(to_wrong, to_right)
    if to_wrong == to_right:
        return 1.0
    # In logarithms, since 2^-total is too small for a float from 1,075 images on.
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, total + 1)))])
    seen = np.arange(fewer + 1)
    tail = np.exp(logs[total] - logs[seen] - logs[total - seen] - total * np.log(2.0)).sum()
    return min(1.0, 2.0 * float(tail))
