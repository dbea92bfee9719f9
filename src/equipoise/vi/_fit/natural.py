"""The loop of natural-gradient steps: variational Newton for a normal, on fixed points."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._types import Array, Scalar
from equipoise.vi._bounds.estimate import Estimate
from equipoise.vi._families.draws import affine
from equipoise.vi._families.family import Natural
from equipoise.vi._fit.linear_response import linear_response
from equipoise.vi._fit.loop import Found, Progress, advance
from equipoise.vi._fit.points import sparse_grid
from equipoise.vi._fit.start import Local, best_of, conditional_scales, lower_factor, normal_elbo
from equipoise.vi._fit.target import Target, log_densities

NORMAL_STEPS = 100
NUM_POINTS = 512
_POLISHING_STEPS = 30
_MAX_DIFFERENCE = 1e-3  # nats between two rules that agree
_SHRINK, _GROW = 0.3, 2.0
_MAX_RATIO = 8.0  # one step changes no variance by more than this factor


class _Points(NamedTuple):
    """Points and weights for expectations under N(0, I)."""

    noise: Array
    weights: Array


class _NormalState(NamedTuple):
    """Everything a fit of a normal continues from.

    In coordinates where q is N(0, I): ``slope`` is E ∇log p and ``curvature`` is E ∇²log p.
    """

    step: Array
    mean: Array
    factor: Array
    elbo: Scalar
    slope: Array
    curvature: Array
    rate: Scalar
    decrement: Scalar
    history: Array
    failed: Array


def fit_normal(
    target: Target,
    starts: Local,
    noise: Array,
    state: _NormalState | None,
    num_steps: int,
    progress: Progress,
) -> Found:
    """Variational Newton steps for a full-rank or mean-field normal."""
    family = target.family
    diagonal = family.natural is Natural.DIAGONAL
    tolerance = float(np.finfo(noise.dtype).eps) ** 0.5
    if state is None:
        state = _first_state(starts, num_steps, diagonal=diagonal)
    equal = jnp.full(noise.shape[0], 1 / noise.shape[0], noise.dtype)
    ascend = functools.partial(_ascend, target, tolerance=tolerance, diagonal=diagonal)
    state = advance(functools.partial(ascend, _Points(noise, equal)), state, num_steps, progress)
    converged = state.decrement <= tolerance
    best, elbo = state, None
    if bool(converged) and noise.dtype == jnp.float64:
        best, elbo = _polished(target, ascend, state, tolerance, noise.shape[0])
    problem = ""
    if bool(state.failed):
        problem = f"the ELBO or its gradient is not finite at step {state.step}"
    if not diagonal:
        lower = lower_factor(best.factor)
        params, proxy = family.from_moments(best.mean, lower), (best.mean, lower)
        return Found(state, params, converged, proxy, None, problem, elbo)
    scale = jnp.diagonal(best.factor)
    response = linear_response(target, best.mean, scale, noise)
    usable = bool(jnp.all(jnp.isfinite(response)))
    proxy = (best.mean, response if usable else best.factor)
    params = family.from_moments(best.mean, scale)
    return Found(state, params, converged, proxy, response if usable else None, problem, elbo)


def _polished(
    target: Target,
    ascend: Callable[[_Points, _NormalState, Array], _NormalState],
    state: _NormalState,
    tolerance: float,
    num_points: int,
) -> tuple[_NormalState, Estimate | None]:
    """The optimum by sparse-grid cubature, where two rules agree on the ELBO there.

    The points of the fit leave an error of their own in q and in its ELBO. For targets near a
    normal a sparse grid has next to none; weights of both signs forbid it elsewhere.
    """
    grid = sparse_grid(state.mean.shape[0])
    if grid is None:
        return state, None
    # Points without weight, so that a small rule runs the program of the fit.
    missing = max(num_points - grid[0].shape[0], 0)
    noise, weights = (
        jnp.asarray(np.pad(part, ((0, missing), (0, 0))), state.mean.dtype) for part in grid
    )
    fresh = _state_at(state.mean, state.factor, state.history.shape[0])
    refined = ascend(_Points(noise, weights[:, 0]), fresh, jnp.asarray(_POLISHING_STEPS))
    log_p = log_densities(target, transported(refined.mean, refined.factor, noise))
    values = _elbos(log_p, weights, refined.factor)
    difference = jnp.abs(values[0] - values[1])
    if not bool((refined.decrement <= tolerance) & (difference < _MAX_DIFFERENCE)):
        return state, None
    return refined, Estimate(values[0], jnp.zeros_like(difference), error_bound=difference)


transported = jax.jit(affine)


@jax.jit
def _elbos(values: Array, weights: Array, factor: Array) -> Array:
    """ELBO of a normal with that factor by each column of weights, from values of log p."""
    return jax.vmap(lambda column: normal_elbo(column @ values, factor))(weights.T)


@functools.partial(jax.jit, static_argnames=("num_steps", "diagonal"))
def _first_state(starts: Local, num_steps: int, *, diagonal: bool) -> _NormalState:
    """The state at the best local normal, before the first step."""
    best = best_of(starts)
    factor = jnp.diag(conditional_scales(best.factor)) if diagonal else best.factor
    return _state_at(best.mean, factor, num_steps)


@functools.partial(jax.jit, static_argnames="num_steps")
def _state_at(mean: Array, factor: Array, num_steps: int) -> _NormalState:
    """The state before the first step."""
    d, dtype = mean.shape[0], mean.dtype
    return _NormalState(
        step=jnp.zeros((), jnp.int32),
        mean=mean,
        factor=factor,
        elbo=jnp.full((), -jnp.inf, dtype),
        slope=jnp.zeros(d, dtype),
        curvature=-jnp.eye(d, dtype=dtype),
        rate=jnp.ones((), dtype),
        decrement=jnp.full((), jnp.inf, dtype),
        history=jnp.full(num_steps, jnp.nan, dtype),
        failed=jnp.zeros((), bool),
    )


@functools.partial(jax.jit, static_argnames=("tolerance", "diagonal"))
def _ascend(
    target: Target,
    points: _Points,
    state: _NormalState,
    limit: Array,
    *,
    tolerance: float,
    diagonal: bool,
) -> _NormalState:
    """Steps until the expected gain is below the tolerance, or ``limit`` of them in all.

    A step that lowers the ELBO, or where anything is not finite, is undone and shortened.
    """
    eps = np.finfo(points.noise.dtype).eps

    def step(state: _NormalState) -> _NormalState:
        first = state.step == 0
        mean, factor = (_diagonal_proposal if diagonal else _proposal)(state)
        elbo, slope, curvature = _expectations(target, mean, factor, points)
        finite = (
            jnp.isfinite(elbo) & jnp.all(jnp.isfinite(curvature)) & jnp.all(jnp.isfinite(slope))
        )
        slack = 8 * eps * jnp.abs(elbo)
        accept = finite & (elbo >= state.elbo - slack)
        taken = state._replace(
            mean=mean,
            factor=factor,
            elbo=elbo,
            slope=slope,
            curvature=curvature,
            rate=jnp.minimum(_GROW * state.rate, 1.0),
            decrement=_decrement(slope, curvature, diagonal=diagonal),
        )
        undone = state._replace(rate=_SHRINK * state.rate)
        new = jax.tree.map(lambda a, b: jnp.where(accept, a, b), taken, undone)
        return new._replace(
            step=state.step + 1,
            history=state.history.at[state.step].set(new.elbo),
            failed=~finite & (first | (new.rate < eps)),
        )

    def more(state: _NormalState) -> Array:
        busy = (state.decrement > tolerance) & (state.rate > eps) & ~state.failed
        return busy & (state.step < limit)

    return jax.lax.while_loop(more, step, state)


def _decrement(slope: Array, curvature: Array, *, diagonal: bool) -> Scalar:
    """ELBO that one natural-gradient step is expected to gain, in nats; 0 at the optimum."""
    excess = curvature + jnp.eye(slope.shape[0], dtype=slope.dtype)
    if diagonal:
        values, axes = _positive_axes(curvature)
        gain = jnp.sum((axes.T @ slope) ** 2 / values)
        return 0.5 * gain + 0.25 * jnp.sum(jnp.diagonal(excess) ** 2)
    return 0.5 * jnp.sum(slope**2) + 0.25 * jnp.sum(excess**2)


def _positive_axes(curvature: Array) -> tuple[Array, Array]:
    """Eigenvalues of −E ∇²log p, kept positive, and its axes."""
    values, axes = jnp.linalg.eigh(-curvature)
    floor = 100 * np.finfo(values.dtype).eps * jnp.max(jnp.abs(values))
    return jnp.maximum(jnp.abs(values), floor), axes


def _expectations(
    target: Target, mean: Array, factor: Array, points: _Points
) -> tuple[Scalar, Array, Array]:
    """ELBO, slope and curvature of N(mean, factor factorᵀ) over the points.

    Stein's identity gives the curvature from gradients alone, and makes it the exact derivative
    of the same average that the ELBO is, along symmetric changes of the factor.
    """
    positions = affine(mean, factor, points.noise)
    values, gradients = jax.vmap(jax.value_and_grad(target.flat))(positions)
    pulled = gradients @ factor
    curvature = pulled.T @ (points.weights[:, None] * points.noise)
    return (
        normal_elbo(points.weights @ values, factor),
        points.weights @ pulled,
        0.5 * (curvature + curvature.T),
    )


def _diagonal_proposal(state: _NormalState) -> tuple[Array, Array]:
    """The step for independent coordinates.

    The precisions follow the diagonal of the curvature, but the mean takes a full Newton step:
    what a diagonal covariance leaves out, it must not leave out of the direction.
    """
    rate = state.rate
    values, axes = _positive_axes(state.curvature)
    move = rate * (axes @ ((axes.T @ state.slope) / values))
    wanted = jnp.clip(-jnp.diagonal(state.curvature), 1 / _MAX_RATIO, _MAX_RATIO)
    scale = jnp.diagonal(state.factor)
    mean = state.mean + scale * move
    return mean, jnp.diag(scale * (1 + rate * (wanted - 1)) ** -0.5)


def _proposal(state: _NormalState) -> tuple[Array, Array]:
    """Mean and factor after a natural-gradient step of size ``rate``.

    In whitened coordinates the precision moves to (1 − ρ) I − ρ E ∇²log p, with its eigenvalues
    kept positive, and the mean by ρ times slope over the new precision.
    """
    rate = state.rate
    values, axes = jnp.linalg.eigh(-state.curvature)
    precision = 1 + rate * (jnp.clip(values, 1 / _MAX_RATIO, _MAX_RATIO) - 1)
    move = rate * (axes.T @ state.slope) / precision
    d = move.shape[0]
    longest = 3.0 * d**0.5
    move = move * jnp.minimum(1.0, longest / jnp.maximum(jnp.linalg.norm(move), 1e-30))
    symmetric = (axes * precision[None] ** -0.5) @ axes.T
    return state.mean + state.factor @ (axes @ move), state.factor @ symmetric
