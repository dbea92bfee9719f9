"""The loop of natural-gradient steps: variational Newton for a normal, on fixed points."""

import functools
from typing import NamedTuple

import jax
import numpy as np

from equipoise._types import Array
from equipoise.vi._bounds.estimate import Estimate
from equipoise.vi._families.family import Family, Natural, Params
from equipoise.vi._starts.normals import (
    Local,
    best_of,
    conditional_scales,
    lower_factor,
    normal_elbo,
)
from equipoise.vi._steps.loop import Found, Report, advance
from equipoise.vi._steps.proposal import (
    NormalState,
    decrement,
    diagonal_proposal,
    proposal,
    state_at,
)
from equipoise.vi._target.points import sparse_grid
from equipoise.vi._target.target import Target, linear_response
from equipoise.vi._weights.products import gram, rows_times, transported

NORMAL_STEPS = 100
_POLISHING_STEPS = 30
_MAX_WORK = 3e9  # operations of an ELBO by cubature
_MAX_DIFFERENCE = 1e-3  # nats between two rules that agree
_SHRINK, _GROW = 0.3, 2.0


class _Ascent(NamedTuple):
    """What stays the same in all steps: points and weights for expectations under N(0, I).

    Weights are columns, of which the first counts.
    """

    target: Target
    noise: np.ndarray
    weights: np.ndarray
    diagonal: bool

    @property
    def eps(self) -> float:
        """Relative rounding of the log density."""
        return float(np.finfo(self.target.dtype).eps)

    @property
    def tolerance(self) -> float:
        """Expected gain in nats below which a fit has converged."""
        return self.eps**0.5


@np.errstate(all="ignore")  # a step to what is not finite is undone
def fit_normal(
    target: Target,
    family: Family,
    starts: Local,
    noise: np.ndarray,
    state: NormalState | None,
    num_steps: int,
    report: Report,
) -> Found:
    """Variational Newton steps for a full-rank or mean-field normal."""
    diagonal, dtype = family.natural is Natural.DIAGONAL, target.dtype
    weights = np.full((len(noise), 1), 1 / len(noise))
    ascent = _Ascent(target, noise.astype(dtype), weights, diagonal)
    state = _first_state(starts, diagonal=diagonal) if state is None else state
    state = advance(functools.partial(_ascend, ascent), state, num_steps, report)
    converged = state.decrement <= ascent.tolerance
    best, elbo = state, None
    if converged and dtype == np.float64:
        best, elbo = _polished(ascent, state)
    problem = ""
    if state.failed:
        problem = f"the ELBO or its gradient is not finite at step {state.step}"
    if not diagonal:
        lower = lower_factor(best.factor)
        params = _params_of(family, best.mean.astype(dtype), lower.astype(dtype))
        return Found(state, params, converged, (best.mean, lower), None, problem, elbo)
    scale = np.diagonal(best.factor)
    params = _params_of(family, best.mean.astype(dtype), scale.astype(dtype))
    response = linear_response(target, best.mean, scale, noise)
    proxy = (best.mean, best.factor if response is None else response)
    return Found(state, params, converged, proxy, response, problem, elbo)


def ascended(
    target: Target, noise: np.ndarray, mean: np.ndarray, factor: np.ndarray
) -> tuple[float, NormalState]:
    """What a step from a full-rank normal is expected to gain, and where such steps end."""
    weights = np.full((len(noise), 1), 1 / len(noise))
    ascent = _Ascent(target, noise.astype(target.dtype), weights, diagonal=False)
    here = _ascend(ascent, state_at(mean, factor), 1)  # which evaluates where it is
    return here.decrement, _ascend(ascent, here, NORMAL_STEPS)


@functools.partial(jax.jit, static_argnames="family")
def _params_of(family: Family, mean: Array, scale: Array) -> Params:
    return family.from_moments(mean, scale)


def _polished(ascent: _Ascent, state: NormalState) -> tuple[NormalState, Estimate | None]:
    """The optimum by sparse-grid cubature, where two rules agree on the ELBO there.

    The points of the fit leave an error of their own in q and in its ELBO. For targets near a
    normal a sparse grid has next to none; weights of both signs forbid it elsewhere.
    """
    grid = sparse_grid(len(state.mean))
    if grid is None or len(grid[0]) * ascent.target.log_density.work > _MAX_WORK:
        return state, None
    noise, weights = grid
    fine = ascent._replace(noise=noise, weights=weights)
    refined = _ascend(fine, state_at(state.mean, state.factor), _POLISHING_STEPS)
    if not (refined.decrement <= ascent.tolerance and refined.difference < _MAX_DIFFERENCE):
        return state, None
    value, error, bound = np.array([refined.elbo, 0.0, refined.difference])
    return refined, Estimate(value, error, error_bound=bound)


def _first_state(starts: Local, *, diagonal: bool) -> NormalState:
    """The state at the best local normal, before the first step."""
    best = best_of(starts)
    factor = np.diag(conditional_scales(best.factor)) if diagonal else best.factor
    return state_at(best.mean, factor)


def _ascend(ascent: _Ascent, state: NormalState, limit: int) -> NormalState:
    """Steps until the expected gain is below the tolerance, or ``limit`` of them in all."""

    def busy() -> bool:
        unfinished = state.decrement > ascent.tolerance and state.rate > ascent.eps
        return unfinished and not state.failed and state.step < limit

    while busy():
        state = _step(ascent, state)
    return state


def _step(ascent: _Ascent, state: NormalState) -> NormalState:
    """One step; where it lowers the ELBO, or anything is not finite, it is undone and shortened."""
    mean, factor = (diagonal_proposal if ascent.diagonal else proposal)(state)
    elbos, slope, curvature = _expectations(ascent, mean, factor)
    elbo = elbos[0]
    finite = bool(np.isfinite(elbo) and np.all(np.isfinite(slope)))
    finite = finite and bool(np.all(np.isfinite(curvature)))
    if finite and elbo >= state.elbo - 8 * ascent.eps * abs(elbo):
        new = state._replace(
            mean=mean,
            factor=factor,
            elbo=elbo,
            slope=slope,
            curvature=curvature,
            rate=min(_GROW * state.rate, 1.0),
            decrement=decrement(slope, curvature, diagonal=ascent.diagonal),
            difference=abs(elbo - elbos[-1]),
        )
    else:
        new = state._replace(rate=_SHRINK * state.rate)
    return new._replace(
        step=state.step + 1,
        history=np.append(state.history, new.elbo),
        failed=not finite and (state.step == 0 or new.rate < ascent.eps),
    )


def _expectations(
    ascent: _Ascent, mean: np.ndarray, factor: np.ndarray
) -> tuple[list[float], np.ndarray, np.ndarray]:
    """ELBOs, slope and curvature of N(mean, factor factorᵀ) over the points.

    Stein's identity gives the curvature from gradients alone, and makes it the exact derivative
    of the same average that the ELBO is, along symmetric changes of the factor.
    """
    target, noise, columns, _ = ascent
    weights = columns[:, 0]
    dtype = target.dtype  # of all that has a row for each point
    stretch = factor.astype(dtype)
    values, gradients = target.gradients(transported(mean.astype(dtype), stretch, noise))
    pulled = rows_times(gradients, stretch)
    curvature = gram(pulled, weights.astype(dtype)[:, None] * noise).astype(float)
    return (
        normal_elbo(columns.T @ values, factor).tolist(),
        (weights.astype(dtype) @ pulled).astype(float),
        0.5 * (curvature + curvature.T),
    )
