"""Where one direction of training loses stability, from its update on that direction and memory."""

from typing import NamedTuple

import jax
import numpy as np

from equipoise._types import Array
from equipoise.games._critical.critical_step import FLIP, NEIMARK_SACKER, NOT_LOST
from equipoise.games._rules.numerics import rounding
from equipoise.games._spectrum.algebra import eigenvalues, namespace
from equipoise.games._training.response import Compressed

_NUM_STEPS = 128
_NUM_HALVINGS = 60


class _Loss(NamedTuple):
    """The learning rate at which the direction is lost, the eigenvalue there, and the kind."""

    learning_rate: Array
    eigenvalue: Array
    kind: Array


def first_loss(update: Compressed, top: Array, limit: Array) -> _Loss:
    """The flip at 2/κ, or a pair of eigenvalues that reaches the circle before.

    Infinity where κ ≤ 0, as then small steps do not attract, or beyond the limit.
    """
    xp = namespace(update, top, limit)
    if xp is np:
        update, top, limit = jax.tree.map(np.asarray, (update, top, limit))
    is_attracted = top > 0
    flip = 2 / xp.where(is_attracted, top, 1)
    # Memory that stays by itself lies on the circle whatever the step; what is lost goes beyond.
    slack = rounding(top.dtype, 0.4)
    parts = xp.arange(1, _NUM_STEPS + 1, dtype=top.dtype) / _NUM_STEPS
    spectra = eigenvalues(_matrices(update, flip * parts))
    outside = (xp.abs(spectra) > 1 + slack).any(-1) & (parts < 1)
    k = xp.argmax(outside)
    low, high = flip * xp.where(k > 0, parts[k - 1], 0), flip * parts[k]
    for _ in range(_NUM_HALVINGS if xp is np and outside.any() else 0):
        middle = (low + high) / 2
        over = xp.abs(eigenvalues(_matrices(update, middle[None]))).max() > 1 + slack
        low, high = xp.where(over, low, middle), xp.where(over, middle, high)
    if xp is not np:
        for _ in range(3):  # each looks at 64 steps in the interval
            inner = low + (high - low) * xp.arange(1, 65, dtype=top.dtype) / 64
            over = (xp.abs(eigenvalues(_matrices(update, inner))) > 1 + slack).any(-1)
            k = xp.argmax(over)
            low, high = xp.where(k > 0, inner[k - 1], low), inner[k]
    spiral = outside.any()
    rate = xp.where(spiral, high, flip)
    values = eigenvalues(_matrices(update, rate[None]))[0]
    lost = xp.argmax(
        xp.where(spiral, xp.abs(values) + xp.where(values.imag > 0, slack, 0), -values.real)
    )
    is_lost = is_attracted & (rate <= limit)
    known = ~xp.isnan(top)
    kind = xp.where(is_lost, xp.where(spiral, NEIMARK_SACKER, FLIP), NOT_LOST)
    return _Loss(
        xp.where(known, xp.where(is_lost, rate, xp.inf), xp.nan),
        xp.where(is_lost, values[lost], xp.nan),
        kind.astype(np.int32),
    )


def _matrices(update: Compressed, etas: Array) -> Array:
    """M(η) for each learning rate."""
    xp = namespace(update, etas)
    n = len(update.matrix) + 1
    corner = xp.concatenate([xp.ones((1, 1), etas.dtype), xp.zeros((1, n - 1), etas.dtype)], 1)
    below = xp.concatenate([update.b[:, None], update.matrix], 1)
    still = xp.concatenate([corner, below], 0)
    moves = xp.concatenate([update.a[None], update.c])[None]
    slope = xp.concatenate([moves, xp.zeros((n - 1, n), etas.dtype)], 0)
    return still[None] + etas[:, None, None] * slope[None]
