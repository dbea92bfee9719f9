"""The critical step without a matrix: the same search, on directions that are found on the way."""

from collections.abc import Callable

import jax
import numpy as np

from equipoise._check import choice, is_traced, value_error
from equipoise._types import Array
from equipoise.games._critical.critical_step import CriticalStep
from equipoise.games._critical.crossing import BATCH, Measure
from equipoise.games._rules.numerics import DENSE_LIMIT
from equipoise.games._spectrum.restricted import directions_of, farthest, on_directions, slots
from equipoise.games._spectrum.spectrum import Family

_METHODS = ("auto", "dense", "matrix_free")
_MOST_ROUNDS = 5
_SAME = 1e-6  # of the step size: directions are found to 1e-5, whose square enters
_LARGEST_MATRICES = 2**36  # bytes of one batch: no machine is asked for more

_Search = Callable[[Measure, Array, Array, int], tuple[CriticalStep, Array]]


def is_matrix_free(method: str, family: Family) -> bool:
    """Whether to search without a matrix; a matrix that cannot be held is refused."""
    method = choice("method", method, _METHODS)
    size = slots(family)[-1]
    if method == "matrix_free" or (method == "auto" and size > 4 * DENSE_LIMIT):
        return True
    needed = 3 * BATCH * size**2 * jax.tree.leaves(family.players)[0].dtype.itemsize
    if needed > _LARGEST_MATRICES:
        raise value_error(
            "method",
            "must not be 'dense' for so many unknowns",
            f"{size} of them, whose matrices take {needed / 2**30:.0f} GiB",
            "Take 'matrix_free', or 'auto'.",
        )
    return False


def searched(family: Family, limit: Array, num: int, search: _Search) -> CriticalStep:
    """The critical step from spectra on directions, which grow until the step stays."""
    if any(map(is_traced, jax.tree.leaves((family, limit)))):
        raise value_error(
            "method", "must be 'dense' where values are traced", "values that are not known"
        )
    ends = slots(family)
    rows = np.zeros((0, ends[-1]), limit.dtype)
    eta, before = limit, None
    for _ in range(_MOST_ROUNDS):
        for point in (0.0, 1.0):
            found = farthest(family, eta, np.asarray(point, limit.dtype))
            rows = directions_of(np.asarray(found.vectors), ends, rows)

        def measure(etas: Array, rows: np.ndarray = rows) -> tuple[Array, Array, Array]:
            filled = np.concatenate([etas, np.full(BATCH - etas.size, etas[-1])])
            full = on_directions(family, rows, filled)
            return jax.tree.map(lambda x: np.asarray(x)[: etas.size], full)

        slope = measure(np.zeros(1, limit.dtype))[1][0]
        with np.errstate(all="ignore"):
            result, _ = search(measure, slope, limit, num)
        step = np.asarray(result.attracted_step_size)
        if before is not None and (step == before or abs(step - before) <= _SAME * abs(step)):
            break
        before, eta = step, step if np.isfinite(step) and step > 0 else limit
    return jax.device_put(result)
