"""The steps of an optax optimizer, whose gradient estimator is chosen by its measured variance.

They run in pieces. Their variates are drawn together, as one long array is made in much less time
than many short ones, and whether everything is finite is asked once for each.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from equipoise._types import Array, PRNGKeyArray, PyTree, Scalar
from equipoise.vi._bounds.density import LogDensity, dtype_of
from equipoise.vi._bounds.estimators import draws_from
from equipoise.vi._bounds.sampling import variates
from equipoise.vi._families.family import Family, Params
from equipoise.vi._fit.target import Target

Optimizer: TypeAlias = optax.GradientTransformationExtraArgs
_Loss: TypeAlias = Callable[[Params, Array], Scalar]
PATHWISE = ("closed_form_entropy", "sticking_the_landing")
_MEASURE_EVERY = 100
_MEASUREMENTS = 8
_MAX_VARIATES = 2**20  # numbers that are drawn together
TERMS = ("log density", "log density of q", "gradient of the ELBO", "updated parameters")


class GradientState(NamedTuple):
    """Everything that the loop continues from."""

    step: Array
    params: Params
    optimizer: PyTree
    estimator: Array
    history: Array
    failed: Array


class Settings(NamedTuple):
    """The static choices of the loop; ``shape`` is blocks of draws, and draws in each."""

    shape: tuple[int, int]
    gradients: tuple[str, ...]
    draws: str
    fixed: bool


class _Moving(NamedTuple):
    """What a step changes; ``total`` is finite where every loss and gradient was."""

    params: Params
    optimizer: PyTree
    history: Array
    total: Scalar


def state_at(params: Params, optimizer: Optimizer, num_steps: int) -> GradientState:
    """The state before the first step."""
    zero = jnp.zeros((), jnp.int32)
    history = jnp.full(num_steps, jnp.nan, dtype_of(params))
    return GradientState(zero, params, optimizer.init(params), zero, history, zero > 0)


def _negative_elbo(log_density: LogDensity, family: Family, gradient: str) -> _Loss:
    """Loss of params and variates."""

    def loss(params: Params, noise: Array) -> Scalar:
        draws = draws_from(family, params, noise, gradient)
        return -jnp.mean(draws.credited(draws.each(log_density) + draws.entropy))

    return loss


def _update(
    optimizer: Optimizer,
    loss: _Loss,
    params: Params,
    memory: PyTree,
    noise: Array,
) -> tuple[Params, PyTree, Scalar, Params]:
    """Params and memory after one step, and the loss and gradient before it."""
    value, gradient = jax.value_and_grad(loss)(params, noise)
    # optax counts steps in integers and mixes them with floats.
    with jax.numpy_dtype_promotion("standard"):
        updates, memory = optimizer.update(
            gradient,
            memory,
            params,
            value=value,
            grad=gradient,
            value_fn=lambda p: loss(p, noise),
        )
        return optax.apply_updates(params, updates), memory, value, gradient


def _noise_at(
    family: Family, settings: Settings, params: Params, key: PRNGKeyArray, step: Array
) -> Array:
    """Variates of one step: its own, so that a loop that is cut in two draws the same."""
    here = key if settings.fixed else jax.random.fold_in(key, step)
    return variates(family, here, settings.shape, dtype_of(params), settings.draws)


def _piece_length(family: Family, settings: Settings) -> int:
    """Steps whose variates are drawn together, a divisor of ``MEASURE_EVERY``."""
    size = math.prod(settings.shape) * (family.noise_size or 1)
    divisors = [n for n in range(1, _MEASURE_EVERY + 1) if _MEASURE_EVERY % n == 0]
    return max(n for n in divisors if n == 1 or n * size <= _MAX_VARIATES)


def _quietest(losses: list[_Loss], params: Params, noises: Array) -> Array:
    """Index of the loss whose gradient varies least over the variates, summed over coordinates."""
    totals = []
    for loss in losses:
        gradients = jax.lax.map(functools.partial(jax.grad(loss), params), noises)
        totals.append(sum(jnp.sum(jnp.var(g, axis=0)) for g in jax.tree.leaves(gradients)))
    return jnp.argmin(jnp.stack(totals)).astype(jnp.int32)


@functools.partial(jax.jit, static_argnames=("optimizer", "settings"))
def descend(
    target: Target,
    optimizer: Optimizer,
    settings: Settings,
    key: PRNGKeyArray,
    state: GradientState,
    limit: Array,
) -> GradientState:
    """Steps until ``limit`` of them are done in all, or something is not finite.

    Every ``MEASURE_EVERY`` steps the estimator with the smallest measured variance is chosen. A
    piece that fails is taken again step by step, up to the one that is at fault.
    """
    family = target.family
    losses = [_negative_elbo(target.log_density, family, name) for name in settings.gradients]
    length = _piece_length(family, settings)
    draw = functools.partial(_noise_at, family, settings, state.params)
    fixed = draw(key, state.step) if settings.fixed else None

    def choose(state: GradientState) -> Array:
        apart = jax.random.split(jax.random.fold_in(key, -1 - state.step), _MEASUREMENTS)
        return _quietest(losses, state.params, jax.vmap(draw, (0, None))(apart, state.step))

    def follow(loss: _Loss, state: GradientState, noises: PyTree, count: Array) -> _Moving:
        def step(i: Array, moving: _Moving) -> _Moving:
            noise = noises[i] if fixed is None else fixed
            params, memory, value, gradient = _update(
                optimizer, loss, moving.params, moving.optimizer, noise
            )
            history = moving.history.at[state.step + i].set(-value)
            total = moving.total + value + sum(jnp.sum(g) for g in jax.tree.leaves(gradient))
            return _Moving(params, memory, history, total)

        zero = jnp.zeros((), dtype_of(state.params))
        start = _Moving(state.params, state.optimizer, state.history, zero)
        return jax.lax.fori_loop(0, count, step, start)

    def piece(carry: tuple[GradientState, Array]) -> tuple[GradientState, Array]:
        state, cautious = carry
        estimator = state.estimator
        if len(losses) > 1:
            due = state.step % _MEASURE_EVERY == 0
            estimator = jax.lax.cond(due, choose, lambda state: state.estimator, state)
        end = jnp.minimum(limit, (state.step // length + 1) * length)
        end = jnp.where(cautious, state.step + 1, end).astype(jnp.int32)
        steps = state.step + jnp.arange(length, dtype=jnp.int32)
        noises = None if settings.fixed else jax.vmap(functools.partial(draw, key))(steps)
        branches = [functools.partial(follow, loss) for loss in losses]
        moved = jax.lax.switch(estimator, branches, state, noises, end - state.step)
        finite = jnp.isfinite(moved.total) & _all_finite(moved.params)
        good = GradientState(
            end, moved.params, moved.optimizer, estimator, moved.history, state.failed
        )
        state = jax.tree.map(lambda g, k: jnp.where(finite, g, k), good, state)
        failed = ~finite & (end == carry[0].step + 1)
        return state._replace(failed=failed), ~finite | (cautious & (end % length != 0))

    def more(carry: tuple[GradientState, Array]) -> Array:
        return (carry[0].step < limit) & ~carry[0].failed

    return jax.lax.while_loop(more, piece, (state, jnp.zeros((), bool)))[0]


@functools.partial(jax.jit, static_argnames=("optimizer", "settings", "gradient"))
def failing_term(
    target: Target,
    optimizer: Optimizer,
    settings: Settings,
    key: PRNGKeyArray,
    state: GradientState,
    gradient: str,
) -> Array:
    """Index of the first of ``TERMS`` that is not finite in the step that failed."""
    family = target.family
    noise = _noise_at(family, settings, state.params, key, state.step)
    draws = draws_from(family, state.params, noise, gradient)
    loss = _negative_elbo(target.log_density, family, gradient)
    params, _, _, slope = _update(optimizer, loss, state.params, state.optimizer, noise)
    checks = (draws.each(target.log_density), draws.entropy, slope, params)
    return jnp.argmax(jnp.stack([~_all_finite(check) for check in checks]))


def _all_finite(tree: PyTree) -> Array:
    leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(leaves))


def settled(history: Array) -> tuple[Array, Scalar, Scalar]:
    """Whether the ELBO has stopped growing: its gain over the last fifth, with standard error.

    The last two tenths of the history are compared; a gain below two standard errors, or below a
    hundredth of a nat, counts as none.
    """
    tenth = max(history.shape[0] // 10, 2)
    late, before = history[-tenth:], history[-2 * tenth : -tenth]
    gain = jnp.mean(late) - jnp.mean(before)
    error = jnp.sqrt((jnp.var(late) + jnp.var(before)) / tenth)
    return gain <= jnp.maximum(2 * error, 0.01), gain, error
