"""The loop of gradient steps: which optimizer, estimator and draws, and where it begins."""

import functools
import math

import jax
import numpy as np
import optax

from equipoise._types import Array, PRNGKeyArray, PyTree
from equipoise.vi._bounds.sampling import Sampling, check_sampling
from equipoise.vi._families.draws import AnyArray
from equipoise.vi._families.family import Family, Natural, Params
from equipoise.vi._starts.normals import (
    Local,
    best_of,
    conditional_scales,
    lower_factor,
    other_modes,
)
from equipoise.vi._steps.descent import (
    PATHWISE,
    Descent,
    GradientState,
    Moving,
    Settings,
    descend,
)
from equipoise.vi._steps.loop import Found, Report, advance
from equipoise.vi._steps.optimizer import memory_of, rule_of
from equipoise.vi._target.batches import Batches
from equipoise.vi._target.target import Target
from equipoise.vi._weights.effort import evaluated
from equipoise.vi._weights.products import transported

GRADIENT_STEPS, BATCHED_STEPS = 2000, 6000
_LBFGS = optax.lbfgs()  # for an ELBO on fixed draws; made once, as it is told by its identity
_NUM_SAMPLES, _NUM_SCORED, _NUM_FIXED = (
    16,
    64,
    64,
)  # draws per step: of a path, of none, and for L-BFGS
_APART = 1.0  # sds between local normals that get a component of a mixture each


def choose_optimizer(
    family: Family,
    optimizer: optax.GradientTransformation | None,
    num_steps: int,
    *,
    sampled: bool,
) -> optax.GradientTransformation:
    """The optimizer that was asked for, or the default of the family."""
    if _is_deterministic(family, optimizer, sampled=sampled):
        return _LBFGS
    return optimizer or _default_optimizer(num_steps)


@functools.lru_cache(maxsize=16)
def _default_optimizer(num_steps: int) -> optax.GradientTransformation:
    """Adam whose rate falls to 0 over the run."""
    return optax.adam(optax.cosine_decay_schedule(0.02, num_steps))


def plan(
    family: Family,
    optimizer: optax.GradientTransformation | None,
    num_samples: int | None,
    gradient: str | None,
    draws: str | None,
    *,
    sampled: bool = False,
) -> Settings:
    """Estimators and draws of the loop, which may be on batches."""
    fixed = _is_deterministic(family, optimizer, sampled=sampled)
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


def first_params(
    family: Family, center: np.ndarray, starts: Local | None, key: PRNGKeyArray
) -> Params:
    """The params at the best local normal, as far as the family can represent it."""
    if not family.placed:
        return _init(family, key)
    if starts is None:
        return _init(family, key, center, np.full((), 0.1))
    best = best_of(starts)
    if family.init_at_modes is not None:
        means, factors, _ = other_modes(starts, best.mean, best.factor, distinct=_APART)
        centers = np.stack([best.mean, *transported(best.mean, best.factor, means)])
        spreads = np.stack([best.factor, *(best.factor @ factor for factor in factors)])
        return _init_at_modes(family, key, centers, np.linalg.norm(spreads, axis=2))
    if family.takes_factor:
        scale = lower_factor(best.factor)
    elif family.natural is Natural.DIAGONAL:
        scale = conditional_scales(best.factor)
    else:
        scale = np.linalg.norm(best.factor, axis=1)
    return _init(family, key, best.mean, scale)


@functools.partial(jax.jit, static_argnames="family")
def _init(family: Family, key: PRNGKeyArray, *normal: Array) -> Params:
    """Params at a key, or at a mean and scale too."""
    if not normal:
        return family.init(key)
    mean, scale = (x.astype(family.positions.dtype) for x in normal)
    return family.init(key, position=family.unravel(mean), scale=scale)


@functools.partial(jax.jit, static_argnames="family")
def _init_at_modes(family: Family, key: PRNGKeyArray, means: Array, sds: Array) -> Params:
    dtype = family.positions.dtype
    init: PyTree = family.init_at_modes
    return init(key, means.astype(dtype), sds.astype(dtype))


def fit_gradient(
    target: Target | Batches,
    family: Family,
    optimizer: optax.GradientTransformation,
    settings: Settings,
    key: PRNGKeyArray,
    state: GradientState | Params,
    num_steps: int,
    report: Report,
) -> Found:
    """Steps of an optax optimizer, from params or from the state of an earlier loop."""
    if not isinstance(state, GradientState):
        first: AnyArray = np.int32(0)
        moving = Moving(state, memory_of(optimizer, state), first)
        state = GradientState(0, moving, np.zeros(0))
    rule = rule_of(optimizer, state.moving.params, state.moving.memory)
    descent = Descent(target, rule, key, family, settings)
    first_step = state.step
    state = advance(functools.partial(descend, descent), state, num_steps, report)
    evaluated((state.step - first_step) * math.prod(settings.shape))
    problem = ""
    if state.failed:
        problem = f"the {state.failed} is not finite at step {state.step}"
    converged = _settled(state.history) and not state.failed
    return Found(state, state.moving.params, converged, problem=problem)


def _is_deterministic(
    family: Family, optimizer: optax.GradientTransformation | None, *, sampled: bool
) -> bool:
    """A large mean-field normal is fitted to fixed draws and all data, with second-order steps."""
    return optimizer is None and family.natural is Natural.DIAGONAL and not sampled


def _settled(history: np.ndarray) -> bool:
    """Whether the ELBO has stopped growing over the last fifth of its history.

    The last two tenths are compared; a gain below two standard errors, or below a hundredth of a
    nat, counts as none.
    """
    tenth = max(len(history) // 10, 2)
    if len(history) < 2 * tenth:
        return False
    late, before = history[-tenth:].astype(float), history[-2 * tenth : -tenth].astype(float)
    gain = np.mean(late) - np.mean(before)
    error = np.sqrt((np.var(late) + np.var(before)) / tenth)
    return bool(gain <= max(2 * error, 0.01))
