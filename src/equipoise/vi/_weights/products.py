"""Products of long thin matrices on the host, in blocks that BLAS keeps on one thread.

Waking another thread takes longer than a small product does, and where cores are busy much longer.
"""

from collections.abc import Iterator

import numpy as np

_UNSHARED = 2**18  # multiplications up to which OpenBLAS runs a product on one thread
_MIN_ROWS = 32  # below it the products are large, and threads are welcome


def _blocks(num_rows: int, each: int) -> Iterator[slice]:
    """Rows that are multiplied together, ``each`` multiplications for one."""
    size = _UNSHARED // each if _UNSHARED // each >= _MIN_ROWS else max(num_rows, 1)
    return (slice(first, first + size) for first in range(0, max(num_rows, 1), size))


def rows_times(rows: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The matrix product."""
    return np.concatenate([rows[block] @ matrix for block in _blocks(len(rows), matrix.size)])


def transported(mean: np.ndarray, factor: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Rows m + W ε."""
    return mean + rows_times(noise, factor.T)


def gram(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Sum over the rows of their outer products."""
    each = left.shape[1] * right.shape[1]
    return np.sum([left[b].T @ right[b] for b in _blocks(len(left), each)], axis=0)
