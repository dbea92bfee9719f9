"""Moments of the mean of a random batch, and the list of all batches where they are few."""

import itertools
import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np


class _BatchMoments(NamedTuple):
    r"""How the moments of a batch's mean follow from those of the rows.

    With the rows' deviations δᵢ from their mean and the batch's Δ, and m_k the mean of δᵢ to the
    k-th tensor power: E Δ² = c₂ m₂, E Δ³ = c₃ m₃, E Δ⁴ = c₄ m₄ + c₂₂ (m₂m₂, over three pairings).
    """

    c2: float
    c3: float
    c4: float
    c22: float


def batch_moments(n: int, size: int, *, replacement: bool) -> _BatchMoments:
    """The coefficients for batches of so many of n rows."""
    if replacement:
        b = float(size)
        return _BatchMoments(1 / b, 1 / b**2, 1 / b**3, (b - 1) / b**3)

    def together(k: int) -> Fraction:
        """The probability that k given rows are in the batch."""
        factors = (Fraction(size - j, n - j) for j in range(k) if n > j)
        return math.prod(factors, start=Fraction(1)) if k <= size else Fraction(0)

    # Sums over different rows become sums over one row, as Σ δᵢ = 0.
    p1, p2, p3, p4 = map(together, range(1, 5))
    exact = (
        (p1 - p2) * n / size**2,
        (p1 - 3 * p2 + 2 * p3) * n / size**3,
        (p1 - 7 * p2 + 12 * p3 - 6 * p4) * n / size**4,
        (p2 - 2 * p3 + p4) * n**2 / size**4,
    )
    return _BatchMoments(*map(float, exact))


def num_batches(n: int, size: int, *, replacement: bool) -> int:
    """How many different batches there are."""
    return math.comb(n + size - 1, size) if replacement else math.comb(n, size)


def all_batches(n: int, size: int, *, replacement: bool) -> tuple[np.ndarray, np.ndarray]:
    """What each row weighs in each batch, and the probabilities of the batches."""
    if not replacement:
        chosen = np.array(list(itertools.combinations(range(n), size)))
        weights = np.zeros((len(chosen), n))
        np.put_along_axis(weights, chosen, 1 / size, 1)
        return weights, np.full(len(chosen), 1 / len(chosen))
    chosen = np.array(list(itertools.combinations_with_replacement(range(n), size)))
    counts = (chosen[:, :, None] == np.arange(n)).sum(1)
    orders = [
        math.factorial(size) // math.prod(map(math.factorial, row)) for row in counts.tolist()
    ]
    return counts / size, np.array([float(Fraction(k, n**size)) for k in orders])
