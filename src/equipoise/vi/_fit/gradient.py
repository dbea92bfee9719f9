"""The loop of gradient steps: which optimizer, estimator and draws, and where it begins."""

import functools

import jax.numpy as jnp
import optax

from equipoise._types import Array, PRNGKeyArray
from equipoise.vi._bounds.sampling import Sampling, check_sampling
from equipoise.vi._families.family import Family, Natural, Params
from equipoise.vi._fit.descent import (
    PATHWISE,
    TERMS,
    GradientState,
    Optimizer,
    Settings,
    descend,
    failing_term,
    settled,
    state_at,
)
from equipoise.vi._fit.loop import Found, Progress, advance
from equipoise.vi._fit.natural import transported
from equipoise.vi._fit.start import Local, best_of, conditional_scales, lower_factor, other_modes
from equipoise.vi._fit.target import Target

GRADIENT_STEPS = 2000
_NUM_SAMPLES, _NUM_SCORED, _NUM_FIXED = (
    16,
    64,
    64,
)  # draws a step: of a path, of none, and for L-BFGS
_APART = 1.0  # sds between local normals that get a component of a mixture each


def choose_optimizer(
    family: Family, optimizer: optax.GradientTransformation | None, num_steps: int
) -> Optimizer:
    """The optimizer that was asked for, or the default of the family."""
    if _is_deterministic(family, optimizer):
        return _deterministic_optimizer()
    return _extended(optimizer or _default_optimizer(num_steps))


def plan(
    family: Family,
    optimizer: optax.GradientTransformation | None,
    num_samples: int | None,
    gradient: str | None,
    draws: str | None,
) -> Settings:
    """Estimators and draws of the loop."""
    fixed = _is_deterministic(family, optimizer)
    pathwise = family.transform_flat is not None
    options = PATHWISE if pathwise else ("score_function",)
    if fixed:
        options = PATHWISE[:1]
    number = num_samples or (_NUM_FIXED if fixed else _NUM_SAMPLES if pathwise else _NUM_SCORED)
    if draws is None:
        draws = "antithetic" if pathwise and number % 2 == 0 else "iid"
    if gradient is not None:
        options = (gradient,)
    shape = check_sampling(family, Sampling(number, options[0], draws, replications=1))
    return Settings(shape, options, draws, fixed)


def first_params(family: Family, center: Array, starts: Local | None, key: PRNGKeyArray) -> Params:
    """The params at the best local normal, as far as the family can represent it."""
    if not family.placed:
        return family.init(key)
    if starts is None:
        return family.init(key, position=family.unravel(center), scale=0.1)
    best = best_of(starts)
    if family.init_at_modes is not None:
        means, factors, _ = other_modes(starts, best.mean, best.factor, _APART)
        centers = jnp.stack([best.mean, *transported(best.mean, best.factor, means)])
        spreads = jnp.stack([best.factor, *(best.factor @ factor for factor in factors)])
        return family.init_at_modes(key, centers, jnp.linalg.norm(spreads, axis=2))
    if family.takes_factor:
        scale = lower_factor(best.factor)
    elif family.natural is Natural.DIAGONAL:
        scale = conditional_scales(best.factor)
    else:
        scale = jnp.linalg.norm(best.factor, axis=1)
    return family.init(key, position=family.unravel(best.mean), scale=scale)


def fit_gradient(
    target: Target,
    optimizer: Optimizer,
    settings: Settings,
    key: PRNGKeyArray,
    state: GradientState | Params,
    num_steps: int,
    progress: Progress,
) -> Found:
    """Steps of an optax optimizer, from params or from the state of an earlier loop."""
    if not isinstance(state, GradientState):
        state = state_at(state, optimizer, num_steps)
    run = functools.partial(descend, target, optimizer, settings, key)
    state = advance(run, state, num_steps, progress)
    converged, _, _ = settled(state.history[: max(int(state.step), 1)])
    problem = ""
    if bool(state.failed):
        estimator = settings.gradients[int(state.estimator)]
        term = failing_term(target, optimizer, settings, key, state, estimator)
        problem = f"the {TERMS[int(term)]} is not finite at step {int(state.step)}"
    proxy = None
    if target.family.moments is not None:
        mean, factor = target.family.moments(state.params)
        proxy = (mean, jnp.diag(factor) if factor.ndim == 1 else lower_factor(factor))
    return Found(state, state.params, converged & ~state.failed, proxy, None, problem)


def _is_deterministic(family: Family, optimizer: optax.GradientTransformation | None) -> bool:
    """A large mean-field normal is fitted to fixed draws, with second-order steps."""
    return optimizer is None and family.natural is Natural.DIAGONAL


@functools.lru_cache(maxsize=16)
def _default_optimizer(num_steps: int) -> optax.GradientTransformation:
    """Adam whose rate falls to 0 over the run."""
    return optax.adam(optax.cosine_decay_schedule(0.02, num_steps))


@functools.lru_cache(maxsize=1)
def _deterministic_optimizer() -> Optimizer:
    """L-BFGS, for an ELBO on fixed draws."""
    return optax.lbfgs()


@functools.lru_cache(maxsize=16)
def _extended(optimizer: optax.GradientTransformation) -> Optimizer:
    return optax.with_extra_args_support(optimizer)
