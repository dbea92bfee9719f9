"""The critical step without a matrix: the same search, on directions that are found on the way."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import numpy as np

from equipoise._check import choice, is_traced, value_error
from equipoise._types import Array
from equipoise.games._rules.numerics import DENSE_LIMIT
from equipoise.games._spectrum.restricted import (
    farthest,
    full_rows,
    is_of_curvature,
    most_curved,
    on_directions,
    slots,
    with_parts,
)
from equipoise.games._spectrum.spectrum import Family

_METHODS = ("auto", "dense", "matrix_free")
_MOST_ROUNDS = 3
_SAME = 5e-5  # of the step size
_MANY = 24  # coordinates that no polynomial of degree two fits by chance
_BATCH, _FEW = 16, 2  # step sizes of one program
_LARGEST_MATRICES = 2**36  # bytes of one batch: no machine is asked for more

_Measure: TypeAlias = Callable[[Array], tuple[Array, Array, Array]]
# From spectra, a slope, the largest step and a number of evaluations to the critical step.
_Search: TypeAlias = Callable[[_Measure, Array, Array, int], tuple[Any, Array]]


def is_matrix_free(method: str, family: Family) -> bool:
    """Whether to search without a matrix; a matrix that cannot be held is refused."""
    method = choice("method", method, _METHODS)
    size = slots(family)[-1].end
    if method == "matrix_free" or (method == "auto" and size > 4 * DENSE_LIMIT):
        return True
    needed = 3 * _BATCH * size**2 * jax.tree.leaves(family.players)[0].dtype.itemsize
    if needed > _LARGEST_MATRICES:
        raise value_error(
            "method",
            "must not be 'dense' for so many unknowns",
            f"{size} of them, whose matrices take {needed / 2**30:.0f} GiB",
            "Take 'matrix_free', or 'auto'.",
        )
    return False


def searched(family: Family, limit: Array, num: int, search: _Search) -> Any:
    """The critical step from spectra on directions, which grow until the step stays."""
    if any(map(is_traced, jax.tree.leaves((family, limit)))):
        raise value_error(
            "method", "must be 'dense' where values are traced", "values that are not known"
        )
    where = slots(family)
    is_alone = where[0].end > _MANY and all(slot.owner == 0 for slot in where)
    if is_alone and limit.dtype.itemsize >= 4 and is_of_curvature(family):
        # The most curved direction is the first to be lost, the least curved tells of small steps.
        ends = np.asarray(most_curved(family))
        ends = np.pad(ends, ((0, 0), (0, where[-1].end - ends.shape[1])))
        rows = full_rows(with_parts({}, ends, where), where, limit.dtype)
        return jax.device_put(_on_rows(family, rows, limit, num, search))
    parts: dict[int, list[np.ndarray]] = {}
    eta: Any = limit
    before = None
    for _ in range(_MOST_ROUNDS):
        for point in (0.0, 1.0):
            found = farthest(family, eta, np.asarray(point, limit.dtype))
            parts = with_parts(parts, np.asarray(found.vectors), where)
        rows = full_rows(parts, where, limit.dtype)
        result = _on_rows(family, rows, limit, num, search)
        step = np.asarray(result.attracted_step_size)
        if before is not None and (step == before or abs(step - before) <= _SAME * abs(step)):
            break
        before, eta = step, step if np.isfinite(step) and step > 0 else limit
    return jax.device_put(result)


def _on_rows(family: Family, rows: np.ndarray, limit: Array, num: int, search: _Search) -> Any:
    """The critical step on these directions."""

    def measure(etas: Array) -> tuple[Array, Array, Array]:
        room = (_FEW if etas.size <= _FEW else _BATCH) - etas.size
        filled = np.concatenate([etas, np.full(max(room, 0), etas[-1])])
        full = on_directions(family, rows, filled)
        return jax.tree.map(lambda x: np.asarray(x)[: etas.size], full)

    nothing: Any = np.zeros(1, limit.dtype)
    slope = measure(nothing)[1][0]
    with np.errstate(all="ignore"):
        return search(measure, slope, limit, num)[0]
