"""A family of matrices as polynomials, and where their spectra provably stay off the circle.

All is NumPy in double precision: how many pieces there are is known only at the end.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.polynomial import chebyshev

from equipoise._types import PyTree
from equipoise.games._critical.crossing import BATCH
from equipoise.games._spectrum.algebra import eigenvectors, inverse

# From step sizes to matrices and their derivatives by the step size.
_Sampled = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
_NODES = chebyshev.chebpts1(BATCH)
_FIT = np.linalg.inv(chebyshev.chebvander(_NODES, BATCH - 1))
_SLOPES = chebyshev.chebvander(_NODES, BATCH - 2) @ chebyshev.chebder(np.eye(BATCH))


class Piece(NamedTuple):
    """M(η) on [low, high]: Chebyshev coefficients (degree + 1, n, n), or None where it is none."""

    low: float
    high: float
    coefficients: PyTree

    def __call__(self, etas: np.ndarray) -> np.ndarray:
        """M at some step sizes."""
        t = (2 * etas - self.low - self.high) / (self.high - self.low)
        basis = chebyshev.chebvander(t, len(self.coefficients) - 1)
        found: PyTree = np.tensordot(basis, self.coefficients, 1)
        return found


def pieces(
    sampled: _Sampled, low: float, high: float, least: float, error: float
) -> Iterator[Piece]:
    """Polynomials that match values and derivatives at 16 points each, up to a relative error.

    Where none does down to the least width, as around a pole or a jump, the piece has none.
    """
    matrices, slopes = sampled((low + high + (high - low) * _NODES) / 2)
    fit: PyTree = np.tensordot(_FIT, matrices, 1)
    scale = np.abs(matrices).max()
    tail = np.abs(fit[-4:]).max()
    off = np.tensordot(_SLOPES, fit, 1) - slopes * (high - low) / 2
    # The derivative of the highest polynomial is its square degree.
    if max(tail, np.abs(off).max() / BATCH**2) <= error * scale < np.inf:
        # What is rounding is left out: most rules are of degree one or two.
        large = np.abs(fit).max((-2, -1)) > 1e-3 * error * scale
        yield Piece(low, high, fit[: large.nonzero()[0].max(initial=0) + 1])
    elif high - low <= least:
        yield Piece(low, high, None)
    else:
        middle = (low + high) / 2
        yield from pieces(sampled, low, middle, least, error)
        yield from pieces(sampled, middle, high, least, error)


def without(piece: Piece, kept: np.ndarray) -> Piece:
    """The piece on the orthonormal columns that are kept."""
    if piece.coefficients is None:
        return piece
    return piece._replace(coefficients=kept.T @ piece.coefficients @ kept)


class Spans(NamedTuple):
    """Spans of step sizes in order, ρ in their middle, and whether all of a span is like it."""

    low: np.ndarray
    high: np.ndarray
    radius: np.ndarray
    is_proven: np.ndarray


def proven(piece: Piece, least: float, most: int) -> Spans:
    """Spans on which no eigenvalue crosses the circle, or one is outside throughout.

    The others are halved down to the least width, as long as there are at most so many.
    """
    low, high, done = np.array([piece.low]), np.array([piece.high]), []
    while low.size:
        radius, is_proven = _judged(piece, low, high)
        last = is_proven | (high - low <= least) | (low.size > most)
        done.append(Spans(low[last], high[last], radius[last], is_proven[last]))
        low, high = low[~last], high[~last]
        middle = (low + high) / 2
        low, high = np.concatenate([low, middle]), np.concatenate([middle, high])
    return Spans(*(np.concatenate(parts) for parts in zip(*done, strict=True)))


def _judged(piece: Piece, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ρ in the middle of each span, and whether Gershgorin's discs keep the verdict throughout.

    In the basis that is diagonal in the middle, M is a matrix of polynomials on each span; each
    coefficient bounds its term.
    """
    count = len(piece.coefficients)
    middle: PyTree = piece((low + high) / 2)
    values, vectors = eigenvectors(middle)
    radius = np.abs(values).max(-1)
    nodes = chebyshev.chebpts1(count)
    etas = (low + high)[:, None] / 2 + (high - low)[:, None] / 2 * nodes
    here = piece(etas.ravel()).reshape(low.size, count, *vectors.shape[-2:])
    turned = inverse(vectors)[:, None] @ here @ vectors[:, None]
    fit = np.linalg.inv(chebyshev.chebvander(nodes, count - 1))
    terms = np.einsum("kj,sjab->skab", fit, turned)
    diagonal = np.diagonal(terms, axis1=-2, axis2=-1)
    discs = np.abs(terms).sum(1).sum(-1) - np.abs(diagonal).sum(1)

    # The square modulus of a diagonal entry has twice the degree.
    fine = chebyshev.chebpts1(2 * count - 1)
    entries = np.einsum("jk,ska->sja", chebyshev.chebvander(fine, count - 1), diagonal)
    fit = np.linalg.inv(chebyshev.chebvander(fine, 2 * count - 2))
    squares = np.einsum("kj,sja->ska", fit, np.abs(entries) ** 2)
    spread = np.abs(squares[:, 1:]).sum(1)
    largest = np.sqrt(squares[:, 0] + spread)
    least = np.sqrt(np.maximum(squares[:, 0] - spread, 0))
    inside, outside = largest + discs < 1, least - discs > 1
    reach = np.abs(diagonal[:, 1:]).sum(1) + discs
    apart = np.abs(diagonal[:, 0, :, None] - diagonal[:, 0, None, :])
    meets = apart <= reach[:, :, None] + reach[:, None, :]
    return radius, (inside | outside).all(-1) | _one_is_outside(inside, outside, meets)


def _one_is_outside(inside: np.ndarray, outside: np.ndarray, meets: np.ndarray) -> np.ndarray:
    """Whether discs that are outside, and meet no disc on the circle, hold an eigenvalue."""
    doubtful = ~inside & ~outside
    for _ in range(outside.shape[-1]):
        more = doubtful | (meets & doubtful[:, None, :]).any(-1) & outside
        if (more == doubtful).all():
            break
        doubtful = more
    found: PyTree = (outside & ~doubtful).any(-1)
    return found
