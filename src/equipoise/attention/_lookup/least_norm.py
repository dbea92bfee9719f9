"""The least-norm vector under linear equalities and inequalities, or a proof that none exists.

Goldfarb and Idnani's dual active set finds which constraints hold with equality; the answer is
then the least-norm solution of those, written so that every derivative is the implicit one.
"""

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_factor, cho_solve, solve_triangular

from equipoise._types import Array

SOLVED, CONTRADICTORY, SEPARATED, UNFINISHED = 0, 1, 2, 3
_RUNNING = -1
_NONE = -1


class _LeastNorm(NamedTuple):
    """The solution, how the search ended, and the multipliers or the proof of infeasibility."""

    solution: Array
    status: Array
    certificate: Array


class _Basis(NamedTuple):
    """QR factors of the active rows, which come first in ``order``."""

    order: Array
    q: Array
    r: Array
    used: Array


_State: TypeAlias = tuple[Array, Array, Array, Array, Array, Array, Array]


@jax.jit
def least_norm(rows: Array, bounds: Array, equality: Array, inequality: Array) -> _LeastNorm:
    """Minimize |x|² with rows·x = bounds where ``equality``, rows·x ≥ bounds where ``inequality``.

    ``status`` is SOLVED, CONTRADICTORY (no x satisfies the equalities), SEPARATED (some, but none
    satisfies the inequalities too) or UNFINISHED (rounding kept the search from ending). Where it
    is one of the middle two, ``certificate`` c has rows.T @ c = 0 and bounds @ c > 0, and is
    not negative on inequalities, which proves it.
    """
    fixed_rows, fixed_bounds = jax.lax.stop_gradient((rows, bounds))
    norms = jnp.linalg.norm(fixed_rows, axis=1)
    # A row that is zero up to rounding carries no direction, only the claim 0 = h or 0 >= h.
    tolerance = 8 * sum(rows.shape) * float(np.finfo(rows.dtype).eps)
    zero = norms <= tolerance * jnp.max(norms, initial=0)
    scales = jnp.where(zero, 1, norms)
    unit = jnp.where(zero[:, None], 0, fixed_rows / scales[:, None])
    active, status, certificate = _active_set(
        unit, fixed_bounds / scales, equality, inequality, tolerance
    )
    solution = _solve_active(rows, bounds, active & (status == SOLVED), scales)
    return _LeastNorm(solution, status, certificate / scales)


def _active_set(
    rows: Array, bounds: Array, equality: Array, inequality: Array, tolerance: float
) -> tuple[Array, Array, Array]:
    """Rows of unit norm that hold with equality at the solution; status; certificate."""
    count = len(rows)
    zeros = jnp.zeros(count, rows.dtype)
    start = _independent(rows, equality, tolerance)
    basis = _factor(rows, start)
    y = solve_triangular(basis.r, jnp.where(basis.used, bounds[basis.order], 0), trans=1)
    x = basis.q @ y
    slack = rows @ x - bounds
    accuracy = tolerance * (jnp.linalg.norm(x) + jnp.max(jnp.abs(bounds), initial=0))
    gap = jnp.where(equality, jnp.abs(slack), 0)
    worst = jnp.argmax(gap)
    contradiction = _project(basis, rows, worst)[1] * -jnp.sign(slack[worst])
    contradictory = jnp.max(gap) > accuracy

    def running(state: _State) -> Array:
        return state[4] == _RUNNING

    def step(state: _State) -> _State:
        x, dual, active, entering, status, certificate, iteration = state
        # The most violated inequality enters, unless one is entering already.
        slack = rows @ x - bounds
        candidates = jnp.where(inequality & ~active, slack, jnp.inf)
        violated = jnp.argmin(candidates)
        p = jnp.where(entering == _NONE, violated, entering)
        accuracy = tolerance * (jnp.linalg.norm(x) + jnp.abs(bounds[p]))
        finished = (entering == _NONE) & (candidates[violated] >= -accuracy)

        basis = _factor(rows, active)
        direction, combination = _project(basis, rows, p)
        # Moving t along the direction changes the dual by t times the combination.
        blocking = active & inequality & (combination < 0)
        ratios = jnp.where(blocking, dual / jnp.where(blocking, -combination, 1), jnp.inf)
        leaving = jnp.argmin(ratios)
        partial = ratios[leaving]
        squared = direction @ direction
        dependent = squared <= tolerance**2
        full = jnp.where(dependent, jnp.inf, -slack[p] / jnp.where(dependent, 1, squared))
        t = jnp.minimum(partial, full)
        unbounded = jnp.isinf(t)
        stop = finished | unbounded

        length = jnp.where(stop, 0, t)
        x = x + jnp.where(dependent, 0, length) * direction
        dual = jnp.maximum(dual + length * combination, 0)
        is_full = full <= partial
        enters = ~stop & is_full
        leaves = ~stop & ~is_full
        active = active.at[p].set(active[p] | enters)
        active = active.at[leaving].set(active[leaving] & ~leaves)
        dual = dual.at[leaving].set(jnp.where(leaves, 0, dual[leaving]))
        entering = jnp.where(leaves, p, _NONE)
        status = jnp.where(finished, SOLVED, jnp.where(unbounded, SEPARATED, _RUNNING))
        limit = iteration >= 20 * (count + 5)
        status = jnp.where((status == _RUNNING) & limit, UNFINISHED, status)
        certificate = jnp.where(~finished & unbounded, combination, certificate)
        return x, dual, active, entering, status, certificate, iteration + 1

    initial = (
        x,
        zeros,
        start,
        jnp.asarray(_NONE),
        jnp.where(contradictory, CONTRADICTORY, _RUNNING),
        jnp.where(contradictory, contradiction, 0),
        jnp.asarray(0),
    )
    _, _, active, _, status, certificate, _ = jax.lax.while_loop(running, step, initial)
    return active, status, certificate


def _independent(rows: Array, equality: Array, tolerance: float) -> Array:
    """A linearly independent subset of the equalities that spans all of them, by pivoting."""

    def step(_: Array, active: Array) -> Array:
        q = _factor(rows, active).q
        rest = rows - rows @ q @ q.T
        rest = rest - rest @ q @ q.T  # again, because one pass leaves the rounding of the first
        lengths = jnp.where(equality & ~active, jnp.linalg.norm(rest, axis=1), 0)
        p = jnp.argmax(lengths)
        return active.at[p].set(active[p] | (lengths[p] > tolerance))

    active: Array = jax.lax.fori_loop(0, min(rows.shape), step, jnp.zeros(len(rows), bool))
    return active


def _factor(rows: Array, active: Array) -> _Basis:
    rank = min(rows.shape)
    order = jnp.argsort(~active, stable=True)[:rank]
    used = active[order]
    q, r = jnp.linalg.qr(jnp.where(used[:, None], rows[order], 0).T)
    r = jnp.where(used[:, None] & used[None], r, jnp.eye(rank, dtype=rows.dtype))
    return _Basis(order, jnp.where(used[None], q, 0), r, used)


def _project(basis: _Basis, rows: Array, index: Array) -> tuple[Array, Array]:
    """What active rows cannot cancel of a row, and the combination of rows that this is."""
    first = basis.q.T @ rows[index]
    rest = rows[index] - basis.q @ first
    second = basis.q.T @ rest
    coefficients = jnp.where(basis.used, solve_triangular(basis.r, first + second), 0)
    combination = jnp.zeros(len(rows), rows.dtype).at[basis.order].add(-coefficients)
    return rest - basis.q @ second, combination.at[index].add(1)


def _solve_active(rows: Array, bounds: Array, active: Array, scales: Array) -> Array:
    """Gᵀ(GGᵀ)⁻¹h on the active rows G, h: smooth in both, which is the implicit derivative."""
    order = jnp.argsort(~active, stable=True)[: min(rows.shape)]
    used = active[order]
    g = jnp.where(used[:, None], rows[order] / scales[order, None], 0)
    h = jnp.where(used, bounds[order] / scales[order], 0)
    factor = cho_factor(g @ g.T + jnp.diag(jnp.where(used, 0, 1).astype(g.dtype)))
    multipliers = cho_solve(factor, h)
    for _ in range(2):  # refinement: the Gram matrix squares the condition number
        multipliers = multipliers + cho_solve(factor, h - g @ (g.T @ multipliers))
    return g.T @ multipliers
