"""The 2-D sine and cosine table of MAE, one number at a time, written from the specification."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt


def sincos_table(width: int, rows: int, columns: int, prefix: int) -> npt.NDArray[np.float64]:
    """float64 [prefix + rows * columns, width]: first half of the channels the column, second half the row."""
    table = np.zeros((prefix + rows * columns, width))
    half, quarter = width // 2, width // 4
    for row in range(rows):
        for column in range(columns):
            token = prefix + row * columns + column
            for start, position in ((0, column), (half, row)):
                for k in range(quarter):
                    angle = position / 10000 ** (k / quarter)
                    table[token, start + k] = math.sin(angle)
                    table[token, start + quarter + k] = math.cos(angle)
    return table
