"""How a fit runs: where it begins, its two loops, and what they hand to the judge."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from equipoise._check_old import value_error
from equipoise._types import Array, PRNGKeyArray, PyTree
from equipoise.vi import _fit_gradient, _fit_normal, _fit_stages
from equipoise.vi._cubature import sparse_grid
from equipoise.vi._estimate import Estimate
from equipoise.vi._family import Family
from equipoise.vi._fit_gradient import PATHWISE, TERMS, GradientState, Settings
from equipoise.vi._fit_normal import NormalState, Points
from equipoise.vi._fit_start import Local, conditional_scales
from equipoise.vi._fit_target import Target
from equipoise.vi._full_rank import from_scale_tril
from equipoise.vi._terms import check

WHERE = "vi.fit"
NORMALS = ("full_rank", "mean_field")
TAKES_FACTOR = ("full_rank", "block_diagonal", "flow")  # whose init takes a matrix as scale
REPORTS = 20
POLISHING_STEPS = 30
APART = 1.0  # sds between local normals that get a component of a mixture each
MAX_DIFFERENCE = 1e-3  # nats between two rules that agree
Progress = Callable[[int, float], object] | None


class Found(NamedTuple):
    """The end of a loop. ``proxy`` is a normal to adapt from: mean and factor, or None."""

    state: Any
    params: Any
    converged: Array
    proxy: Any
    linear_response: Any
    problem: str
    elbo: Estimate | None = None


def begin_at(target: Target, family: Family, start: PyTree) -> Array:
    """The flat vector to begin at, where the log density and its gradient are finite."""
    dtype = family.positions.dtype
    if dtype.itemsize < 4:  # matrices are factorized in float32 at least
        dtype = jnp.dtype(jnp.float32)
    center = jnp.zeros(family.dimension, dtype)
    if start is not None:
        center = family.ravel(start).astype(dtype)
    value, gradient = _fit_stages.slope(target, family, center)
    for term, number in (("value", value), ("gradient", gradient)):
        if not bool(jnp.all(jnp.isfinite(number))):
            raise value_error(
                WHERE,
                "log_density",
                f"must have a finite {term} at the start",
                str(number),
                "Give a `start` inside its domain, or a `support` that keeps positions there.",
            )
    return center


def points(key: PRNGKeyArray, center: Array, num_samples: int) -> tuple[Array, Array]:
    """Balanced points for the start and for the ELBO."""
    made: tuple[Array, Array] = _fit_stages.points(key, center.shape[0], center.dtype, num_samples)
    return made


def find_starts(
    target: Target, family: Family, center: Array, key: PRNGKeyArray, noise: Array, restarts: int
) -> Local:
    """The best local normals from the center and ``restarts`` − 1 points around it."""
    scatter = jax.random.normal(key, (restarts - 1, center.shape[0]), center.dtype)
    found: Local = _fit_stages.find_starts(target, family, center, scatter, noise)
    return found


def advance(run: Callable[[Any, Array], Any], state: Any, num_steps: int, report: Progress) -> Any:
    """Runs the compiled loop, in about ``REPORTS`` pieces where somebody watches."""
    if state.history.shape[0] < num_steps:
        more = jnp.full(num_steps - state.history.shape[0], jnp.nan, state.history.dtype)
        state = state._replace(history=jnp.concatenate([state.history, more]))
    if report is None:
        return run(state, jnp.asarray(num_steps))
    piece = -(-num_steps // REPORTS)
    while int(state.step) < num_steps:
        before = int(state.step)
        state = run(state, jnp.asarray(min(before + piece, num_steps)))
        done = int(state.step)
        if done == before:
            break
        report(done, float(state.history[done - 1]))
    return state


def fit_normal(
    target: Target,
    family: Family,
    starts: Local,
    noise: Array,
    state: NormalState | None,
    num_steps: int,
    progress: Progress,
) -> Found:
    """Variational Newton steps for a full-rank or mean-field normal."""
    diagonal = family.name == "mean_field"
    if state is None:
        state = _fit_stages.begin(starts, num_steps, diagonal=diagonal)
    tolerance = float(np.finfo(noise.dtype).eps) ** 0.5
    equal = jnp.full(noise.shape[0], 1 / noise.shape[0], noise.dtype)
    run = functools.partial(_ascend, target, family, Points(noise, equal), tolerance, diagonal)
    state = advance(run, state, num_steps, progress)
    converged = state.decrement <= tolerance
    fitted, elbo = state, None
    if bool(converged) and noise.dtype == jnp.float64:
        fitted, elbo = polish(
            target, family, state, tolerance, diagonal=diagonal, num_points=noise.shape[0]
        )
    problem = ""
    if bool(state.failed):
        problem = f"the ELBO or its gradient is not finite at step {state.step}"
    response = None
    if diagonal:
        scale = jnp.diagonal(fitted.factor)
        params: Any = {"mean": fitted.mean, "log_scale": jnp.log(scale)}
        response = _fit_stages.respond(target, family, params, noise)
        usable = bool(jnp.all(jnp.isfinite(response)))
        response = response if usable else None
        proxy = (fitted.mean, response if usable else fitted.factor)
    else:
        lower = _fit_stages.lower_factor(fitted.factor)
        params, proxy = from_scale_tril(fitted.mean, lower), (fitted.mean, lower)
    return Found(state, params, converged, proxy, response, problem, elbo)


def polish(
    target: Target,
    family: Family,
    state: NormalState,
    tolerance: float,
    *,
    diagonal: bool,
    num_points: int,
) -> tuple[NormalState, Estimate | None]:
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
    fresh = _fit_normal.begin(state.mean, state.factor, state.history.shape[0])
    points, limit = Points(noise, weights[:, 0]), jnp.asarray(POLISHING_STEPS)
    refined = _ascend(target, family, points, tolerance, diagonal, fresh, limit)
    positions = _fit_stages.transported(refined.mean, refined.factor, noise)
    log_p = _fit_stages.log_densities(target, family, positions)
    values = _fit_stages.expect(log_p, weights, refined.factor)
    difference = jnp.abs(values[0] - values[1])
    agree = (refined.decrement <= tolerance) & (difference < MAX_DIFFERENCE)
    return (refined, Estimate(values[0], difference)) if bool(agree) else (state, None)


def _ascend(
    target: Target,
    family: Family,
    points: Points,
    tolerance: float,
    diagonal: bool,  # noqa: FBT001
    state: NormalState,
    limit: Array,
) -> NormalState:
    final: NormalState = _fit_stages.ascend(
        target, family, state, points, limit, tolerance, diagonal
    )
    return final


@functools.lru_cache(maxsize=16)
def default_optimizer(num_steps: int) -> optax.GradientTransformation:
    """Adam whose rate falls to 0 over the run."""
    return optax.adam(optax.cosine_decay_schedule(0.02, num_steps))


@functools.lru_cache(maxsize=1)
def deterministic_optimizer() -> optax.GradientTransformation:
    """L-BFGS, for an ELBO on fixed draws."""
    return optax.lbfgs()


def is_deterministic(family: Family, optimizer: Any) -> bool:
    """A large mean-field normal is fitted to fixed draws, with second-order steps."""
    return optimizer is None and family.name == "mean_field"


def choose_optimizer(family: Family, optimizer: Any, num_steps: int) -> Any:
    """The optimizer that was asked for, or the default of the family."""
    if is_deterministic(family, optimizer):
        return deterministic_optimizer()
    return _extended(optimizer or default_optimizer(num_steps))


@functools.lru_cache(maxsize=16)
def _extended(optimizer: Any) -> Any:
    return optax.with_extra_args_support(optimizer)


def plan(
    family: Family, optimizer: Any, num_samples: int | None, gradient: str | None, draws: str | None
) -> Settings:
    """Estimators and draws of the loop."""
    fixed = is_deterministic(family, optimizer)
    pathwise = family.transform_flat is not None
    options = PATHWISE if pathwise else ("score_function",)
    if fixed:
        options = PATHWISE[:1]
    number = num_samples or (64 if fixed else 16)
    if draws is None:
        draws = "antithetic" if pathwise and number % 2 == 0 else "iid"
    if gradient is not None:
        options = (gradient,)
    shape = check(WHERE, family, number, options[0], draws, replications=1)
    return Settings(shape, options, draws, fixed)


def begin_descent(
    family: Family,
    center: Array,
    starts: Local | None,
    optimizer: Any,
    key: PRNGKeyArray,
    num_steps: int,
) -> GradientState:
    """The state at the best local normal, as far as the family can represent it."""
    mean, scale = center, jnp.asarray(0.1, center.dtype)
    if starts is not None:
        best = _fit_stages.best_of(starts)
        mean, scale = best.mean, _fit_stages.lower_factor(best.factor)
        if family.name == "mean_field":
            scale = conditional_scales(best.factor)
        elif family.name not in TAKES_FACTOR:
            scale = jnp.linalg.norm(best.factor, axis=1)
    params = family.init(key, position=family.unravel(mean), scale=scale)
    if starts is not None and family.name == "mixture":
        params = on_every_mode(family, starts, key)
    return _fit_gradient.begin(params, choose_optimizer(family, optimizer, num_steps), num_steps)


def on_every_mode(family: Family, starts: Local, key: PRNGKeyArray) -> Any:
    """Components of a mixture, dealt out to the local normals far from each other."""
    best = _fit_stages.best_of(starts)
    apart = _fit_stages.other_modes(starts, best.mean, best.factor, APART)
    means, factors, _ = apart[0]
    centers = [best.mean, *_fit_stages.transported(best.mean, best.factor, means)]
    spreads = [best.factor, *(best.factor @ factor for factor in factors)]
    around = [
        family.init(key, position=family.unravel(m), scale=jnp.linalg.norm(s, axis=1))
        for m, s in zip(centers, spreads, strict=True)
    ]

    def deal(*leaves: Array) -> Array:
        return jnp.stack([leaves[k % len(leaves)][k] for k in range(leaves[0].shape[0])])

    dealt: Any = jax.tree.map(deal, *around)
    return dealt


def fit_gradient(
    target: Target,
    family: Family,
    optimizer: Any,
    state: GradientState,
    key: PRNGKeyArray,
    settings: Settings,
    num_steps: int,
    progress: Progress,
) -> Found:
    """Steps of an optax optimizer."""
    chosen = choose_optimizer(family, optimizer, num_steps)

    def run(state: GradientState, limit: Array) -> GradientState:
        final: GradientState = _fit_stages.descend(
            target, family, chosen, state, key, settings, limit
        )
        return final

    state = advance(run, state, num_steps, progress)
    settled, _, _ = _fit_gradient.settled(state.history[: max(int(state.step), 1)])
    problem = ""
    if bool(state.failed):
        estimator = settings.gradients[int(state.estimator)]
        term = _fit_stages.failing_term(target, family, chosen, state, key, settings, estimator)
        problem = f"the {TERMS[int(term)]} is not finite at step {int(state.step)}"
    proxy = None
    if family.moments is not None:
        mean, factor = family.moments(state.params)
        proxy = (mean, jnp.diag(factor) if factor.ndim == 1 else _fit_stages.lower_factor(factor))
    return Found(state, state.params, settled & ~state.failed, proxy, None, problem)
