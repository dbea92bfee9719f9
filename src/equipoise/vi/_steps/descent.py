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
from equipoise.vi._bounds.density import LogDensity, dtype_of
from equipoise.vi._bounds.estimators import draws_from
from equipoise.vi._bounds.sampling import variates
from equipoise.vi._families.family import Family, Params
from equipoise.vi._steps.optimizer import Rule
from equipoise.vi._target.batches import Batches, expanded
from equipoise.vi._target.target import Target

PATHWISE = ("closed_form_entropy", "sticking_the_landing")
_MEASURE_EVERY = 100
_NUM_CENTERED = 64  # draws of q that say where it is
_MEASUREMENTS = 8
_PIECES = 10  # in a run, after which it is asked whether everything is finite
_MAX_VARIATES = 2**20  # numbers that are drawn together
# In the order in which they are blamed for what is not finite.
_TERMS = ("log density", "log density of q", "gradient of the ELBO", "updated parameters")


class _Noise(NamedTuple):
    """What a step draws: normal variates, and rows of the data where it has batches of them."""

    variates: Array
    rows: PyTree


_Loss: TypeAlias = Callable[[Params, _Noise], tuple[Scalar, Scalar]]


class Moving(NamedTuple):
    """What a step changes: params, the optimizer's memory; and which estimator it follows."""

    params: Params
    memory: PyTree
    estimator: Array


class GradientState(NamedTuple):
    """Everything that the loop continues from. ``failed`` names the term that is not finite.

    ``anchor`` is the log density on all data around where q was, for steps on batches.
    """

    step: int
    moving: Moving
    history: np.ndarray
    failed: str = ""
    anchor: PyTree = None


class Settings(NamedTuple):
    """The static choices of the loop; ``shape`` is blocks of draws, and draws in each."""

    shape: tuple[int, int]
    gradients: tuple[str, ...]
    draws: str
    fixed: bool


def _density(target: Target | Batches, noise: _Noise, anchor: PyTree) -> LogDensity:
    """The log density, or what the rows of a batch stand for."""
    if isinstance(target, Batches):
        return target.on_batch(noise.rows, anchor)
    return target.log_density


def _negative_elbo(
    target: Target | Batches, family: Family, gradient: str, anchor: PyTree
) -> _Loss:
    """Loss of params and noise, and the mean log density in it."""

    def loss(params: Params, noise: _Noise) -> tuple[Scalar, Scalar]:
        draws = draws_from(family, params, noise.variates, gradient)
        log_p = draws.each(target.log_density, _density(target, noise, anchor))
        return -jnp.mean(draws.credited(log_p + draws.entropy)), jnp.mean(log_p)

    return loss


def _noise_at(descent: "Descent", params: Params, key: PRNGKeyArray, step: Array) -> _Noise:
    """What one step draws: its own, so that a loop that is cut in two draws the same."""
    family, settings, target = descent.family, descent.settings, descent.target
    here = key if settings.fixed else jax.random.fold_in(key, step)
    drawn = variates(family, here, settings.shape, dtype_of(params), settings.draws)
    if isinstance(target, Batches):
        return _Noise(drawn, target.drawn(jax.random.fold_in(here, 1)))
    return _Noise(drawn, None)


def _piece_length(descent: "Descent") -> int:
    """Steps whose variates are drawn together, a divisor of ``MEASURE_EVERY``."""
    target, size = descent.target, descent.family.noise_size or 1
    size = math.prod(descent.settings.shape) * size
    if isinstance(target, Batches):
        size += target.batch_size
    divisors = (n for n in range(_MEASURE_EVERY, 0, -1) if _MEASURE_EVERY % n == 0)
    return next(n for n in divisors if n == 1 or n * size <= _MAX_VARIATES)


def _quietest(losses: list[_Loss], params: Params, noises: _Noise) -> Array:
    """Index of the loss whose gradient varies least over the variates, summed over coordinates."""
    totals = []
    for loss in losses:
        gradients, _ = jax.lax.map(lambda e, f=loss: jax.grad(f, has_aux=True)(params, e), noises)
        totals.append(sum(jnp.sum(jnp.var(g, axis=0)) for g in jax.tree.leaves(gradients)))
    return jnp.argmin(jnp.stack(totals)).astype(jnp.int32)


@record
class Descent:
    """What stays the same in all steps."""

    target: Target | Batches
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


@functools.partial(jax.jit, static_argnames="family")
def _center(family: Family, params: Params) -> Array:
    """About where q is."""
    drawn = family.sample(params, jax.random.key(0), _NUM_CENTERED)
    return jnp.mean(jax.vmap(family.ravel)(drawn), axis=0)


def _anchored(descent: Descent, state: GradientState) -> GradientState:
    """The state with an anchor where q is now."""
    batches = descent.target
    if not isinstance(batches, Batches):
        return state
    center = _center(descent.family, state.moving.params)
    return state._replace(anchor=expanded(batches, batches.all_rows(), center))


@jax.jit
def _run(
    descent: Descent, moving: Moving, anchor: PyTree, first: Array, end: Array
) -> tuple[Moving, Array, Array]:
    """Steps from the first to the end: the ELBO after each, and which terms are not finite.

    Every ``MEASURE_EVERY`` steps the estimator with the smallest measured variance is chosen.
    """
    family, settings, key = descent.family, descent.settings, descent.key
    names = settings.gradients
    losses = [_negative_elbo(descent.target, family, name, anchor) for name in names]
    length = _piece_length(descent)
    draw = functools.partial(_noise_at, descent, moving.params)
    fixed = draw(key, first) if settings.fixed else None
    dtype = dtype_of(moving.params)

    def choose(params: Params, at: Array) -> Array:
        apart = jax.random.split(jax.random.fold_in(key, -1 - at), _MEASUREMENTS)
        return _quietest(losses, params, jax.vmap(draw, (0, None))(apart, at))

    def follow(loss: _Loss, steps: _Steps, noises: PyTree, count: Array) -> _Steps:
        def step(i: Array, now: _Steps) -> _Steps:
            noise: PyTree = fixed or jax.tree.map(lambda drawn: drawn[i], noises)
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
    length = _piece_length(descent)
    runs = [1, length, _PIECES * length]
    if isinstance(descent.target, Batches):
        runs.pop()  # and after each piece the anchor follows
    while state.step < limit and not state.failed:
        if state.step % length == 0:
            state = _anchored(descent, state)
        end = min(limit, (state.step // runs[-1] + 1) * runs[-1])
        span = np.int32(state.step), np.int32(end)
        moving, elbos, broken = _run(descent, state.moving, state.anchor, *span)
        broken = np.asarray(broken)
        if not broken.any():
            taken = np.asarray(elbos)[: end - state.step]
            history = np.append(state.history, taken)
            state = state._replace(step=end, moving=moving, history=history)
        elif end == state.step + 1:
            state = state._replace(failed=_TERMS[int(np.argmax(broken))])
        else:
            runs.pop()
    return state
