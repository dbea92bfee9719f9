"""The steps of an optax optimizer, whose gradient estimator is chosen by its measured variance.

They run in pieces, whose variates are drawn together, as one long array is made in much less time
than many short ones.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._types import Array, PRNGKeyArray, PyTree, Scalar, record, static_field
from equipoise.vi._bounds.density import dtype_of
from equipoise.vi._bounds.estimators import draws_from
from equipoise.vi._bounds.sampling import variates
from equipoise.vi._families.family import Family, Params
from equipoise.vi._fit.optimizer import Rule
from equipoise.vi._fit.target import Target

_Loss: TypeAlias = Callable[[Params, Array], tuple[Scalar, Scalar]]
PATHWISE = ("closed_form_entropy", "sticking_the_landing")
_MEASURE_EVERY = 100
_MEASUREMENTS = 8
_PIECES = 10  # in a run, after which it is asked whether everything is finite
_MAX_VARIATES = 2**20  # numbers that are drawn together
# In the order in which they are blamed for what is not finite.
_TERMS = ("log density", "log density of q", "gradient of the ELBO", "updated parameters")


class Moving(NamedTuple):
    """What a step changes: params, the optimizer's memory; and which estimator it follows."""

    params: Params
    memory: PyTree
    estimator: Array


class GradientState(NamedTuple):
    """Everything that the loop continues from. ``failed`` names the term that is not finite."""

    step: int
    moving: Moving
    history: np.ndarray
    failed: str = ""


class Settings(NamedTuple):
    """The static choices of the loop; ``shape`` is blocks of draws, and draws in each."""

    shape: tuple[int, int]
    gradients: tuple[str, ...]
    draws: str
    fixed: bool


def _negative_elbo(target: Target, family: Family, gradient: str) -> _Loss:
    """Loss of params and variates, and the mean log density in it."""

    def loss(params: Params, noise: Array) -> tuple[Scalar, Scalar]:
        draws = draws_from(family, params, noise, gradient)
        log_p = draws.each(target.log_density)
        return -jnp.mean(draws.credited(log_p + draws.entropy)), jnp.mean(log_p)

    return loss


def _noise_at(
    family: Family, settings: Settings, params: Params, key: PRNGKeyArray, step: Array
) -> Array:
    """Variates of one step: its own, so that a loop that is cut in two draws the same."""
    here = key if settings.fixed else jax.random.fold_in(key, step)
    return variates(family, here, settings.shape, dtype_of(params), settings.draws)


def _piece_length(family: Family, settings: Settings) -> int:
    """Steps whose variates are drawn together, a divisor of ``MEASURE_EVERY``."""
    size = math.prod(settings.shape) * (family.noise_size or 1)
    divisors = (n for n in range(_MEASURE_EVERY, 0, -1) if _MEASURE_EVERY % n == 0)
    return next(n for n in divisors if n == 1 or n * size <= _MAX_VARIATES)


def _quietest(losses: list[_Loss], params: Params, noises: Array) -> Array:
    """Index of the loss whose gradient varies least over the variates, summed over coordinates."""
    totals = []
    for loss in losses:
        gradients, _ = jax.lax.map(lambda e, f=loss: jax.grad(f, has_aux=True)(params, e), noises)
        totals.append(sum(jnp.sum(jnp.var(g, axis=0)) for g in jax.tree.leaves(gradients)))
    return jnp.argmin(jnp.stack(totals)).astype(jnp.int32)


@record
class Descent:
    """What stays the same in all steps."""

    target: Target
    rule: Rule
    key: PRNGKeyArray
    family: Family = static_field()
    settings: Settings = static_field()


class _Steps(NamedTuple):
    """Where steps are, the ELBO after each, and sums that are finite where their terms were."""

    at: Array
    moving: Moving
    elbos: Array
    totals: Array


@jax.jit
def _run(descent: Descent, moving: Moving, first: Array, end: Array) -> tuple[Moving, Array, Array]:
    """Steps from the first to the end: the ELBO after each, and which terms are not finite.

    Every ``MEASURE_EVERY`` steps the estimator with the smallest measured variance is chosen.
    """
    family, settings, key = descent.family, descent.settings, descent.key
    losses = [_negative_elbo(descent.target, family, name) for name in settings.gradients]
    length = _piece_length(family, settings)
    draw = functools.partial(_noise_at, family, settings, moving.params)
    fixed = draw(key, first) if settings.fixed else None
    dtype = dtype_of(moving.params)

    def choose(params: Params, at: Array) -> Array:
        apart = jax.random.split(jax.random.fold_in(key, -1 - at), _MEASUREMENTS)
        return _quietest(losses, params, jax.vmap(draw, (0, None))(apart, at))

    def follow(loss: _Loss, steps: _Steps, noises: PyTree, count: Array) -> _Steps:
        def step(i: Array, now: _Steps) -> _Steps:
            noise = noises[i] if fixed is None else fixed
            params, memory, estimator = now.moving
            (value, log_p), slope = jax.value_and_grad(loss, has_aux=True)(params, noise)
            params, memory = descent.rule(slope, memory, params, value, lambda p: loss(p, noise)[0])
            total = sum(jnp.sum(g) for g in jax.tree.leaves(slope))
            return _Steps(
                now.at + 1,
                Moving(params, memory, estimator),
                now.elbos.at[now.at - first].set(-value),
                now.totals + jnp.stack([log_p, value, total]),
            )

        return jax.lax.fori_loop(0, count, step, steps)

    def piece(steps: _Steps) -> _Steps:
        at, (params, memory, estimator), _, _ = steps
        if len(losses) > 1:
            keep = lambda *_: estimator  # noqa: E731
            estimator = jax.lax.cond(at % _MEASURE_EVERY == 0, choose, keep, params, at)
        steps = steps._replace(moving=Moving(params, memory, estimator))
        each = at + jnp.arange(length, dtype=jnp.int32)
        noises = None if settings.fixed else jax.vmap(draw, (None, 0))(key, each)
        count = jnp.minimum(end, (at // length + 1) * length) - at
        branches = [functools.partial(follow, loss) for loss in losses]
        return jax.lax.switch(estimator, branches, steps, noises, count)

    room = jnp.zeros(_PIECES * length, dtype)
    start = _Steps(first, moving, room, jnp.zeros(3, dtype))
    _, moving, elbos, totals = jax.lax.while_loop(lambda steps: steps.at < end, piece, start)
    sound = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(moving.params)]
    return moving, elbos, ~jnp.append(jnp.isfinite(totals), jnp.stack(sound).all())


def descend(descent: Descent, state: GradientState, limit: int) -> GradientState:
    """Steps until ``limit`` of them are done in all, or something is not finite.

    Where it is, they are taken again in shorter runs, the last of which is the step at fault.
    """
    length = _piece_length(descent.family, descent.settings)
    runs = [1, length, _PIECES * length]
    while state.step < limit and not state.failed:
        end = min(limit, (state.step // runs[-1] + 1) * runs[-1])
        moving, elbos, broken = _run(descent, state.moving, np.int32(state.step), np.int32(end))
        broken = np.asarray(broken)
        if not broken.any():
            taken = np.asarray(elbos)[: end - state.step]
            state = GradientState(end, moving, np.append(state.history, taken))
        elif end == state.step + 1:
            state = state._replace(failed=_TERMS[int(np.argmax(broken))])
        else:
            runs.pop()
    return state
