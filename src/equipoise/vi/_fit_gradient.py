"""The loop of an optax optimizer, whose gradient estimator is chosen by its measured variance.

It runs in pieces. Their variates are drawn together, as one long array is made in much less time
than many short ones, and whether everything is finite is asked once for each.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from equipoise._types import Array, PRNGKeyArray, Scalar
from equipoise.vi._family import Family
from equipoise.vi._terms import LogDensity, dtype_of, transform, variates

PATHWISE = ("closed_form_entropy", "sticking_the_landing")
MEASURE_EVERY = 100
MEASUREMENTS = 8
MAX_VARIATES = 2**20  # numbers that are drawn together
TERMS = ("log density", "log density of q", "gradient of the ELBO", "updated parameters")


class GradientState(NamedTuple):
    """Everything that the loop continues from."""

    step: Array
    params: Any
    optimizer: Any
    estimator: Array
    history: Array
    failed: Array


class Settings(NamedTuple):
    """The static choices of the loop; ``shape`` is blocks of draws, and draws in each."""

    shape: tuple[int, int]
    gradients: tuple[str, ...]
    draws: str
    fixed: bool


class Moving(NamedTuple):
    """What a step changes; ``total`` is finite where every loss and gradient was."""

    params: Any
    optimizer: Any
    history: Array
    total: Scalar


def begin(params: Any, optimizer: Any, num_steps: int) -> GradientState:
    """The state before the first step."""
    zero = jnp.zeros((), jnp.int32)
    history = jnp.full(num_steps, jnp.nan, dtype_of(params))
    return GradientState(zero, params, optimizer.init(params), zero, history, zero > 0)


def negative_elbo(
    log_density: LogDensity, family: Family, gradient: str
) -> Callable[[Any, Array], Scalar]:
    """Loss of params and variates."""

    def loss(params: Any, noise: Array) -> Scalar:
        draws = transform(family, params, noise, gradient)
        return -jnp.mean(draws.credited(draws.each(log_density) + draws.entropy))

    return loss


def update(
    optimizer: optax.GradientTransformationExtraArgs,
    loss: Callable[[Any, Array], Scalar],
    params: Any,
    memory: Any,
    noise: Array,
) -> tuple[Any, Any, Scalar, Any]:
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


def noise_at(
    family: Family, settings: Settings, params: Any, key: PRNGKeyArray, step: Array
) -> Array:
    """Variates of one step: its own, so that a loop that is cut in two draws the same."""
    here = key if settings.fixed else jax.random.fold_in(key, step)
    return variates(family, here, settings.shape, dtype_of(params), settings.draws)


def piece_length(family: Family, settings: Settings) -> int:
    """Steps whose variates are drawn together, a divisor of ``MEASURE_EVERY``."""
    size = math.prod(settings.shape) * (family.noise_size or 1)
    divisors = [n for n in range(1, MEASURE_EVERY + 1) if MEASURE_EVERY % n == 0]
    return max(n for n in divisors if n == 1 or n * size <= MAX_VARIATES)


def quietest(losses: list[Callable[[Any, Array], Scalar]], params: Any, noises: Array) -> Array:
    """Index of the loss whose gradient varies least over the variates, summed over coordinates."""
    totals = []
    for loss in losses:
        gradients = jax.lax.map(functools.partial(jax.grad(loss), params), noises)
        totals.append(sum(jnp.sum(jnp.var(g, axis=0)) for g in jax.tree.leaves(gradients)))
    return jnp.argmin(jnp.stack(totals)).astype(jnp.int32)


def descend(
    log_density: LogDensity,
    family: Family,
    optimizer: optax.GradientTransformationExtraArgs,
    state: GradientState,
    key: PRNGKeyArray,
    settings: Settings,
    *,
    limit: Array,
) -> GradientState:
    """Steps until ``limit`` of them are done in all, or something is not finite.

    Every ``MEASURE_EVERY`` steps the estimator with the smallest measured variance is chosen. A
    piece that fails is taken again step by step, up to the one that is at fault.
    """
    losses = [negative_elbo(log_density, family, name) for name in settings.gradients]
    length = piece_length(family, settings)
    draw = functools.partial(noise_at, family, settings, state.params)
    fixed = draw(key, state.step) if settings.fixed else None

    def choose(state: GradientState) -> Array:
        apart = jax.random.split(jax.random.fold_in(key, -1 - state.step), MEASUREMENTS)
        return quietest(losses, state.params, jax.vmap(draw, (0, None))(apart, state.step))

    def follow(
        loss: Callable[[Any, Array], Scalar], state: GradientState, noises: Any, count: Array
    ) -> Moving:
        def step(i: Array, moving: Moving) -> Moving:
            noise = noises[i] if fixed is None else fixed
            params, memory, value, gradient = update(
                optimizer, loss, moving.params, moving.optimizer, noise
            )
            history = moving.history.at[state.step + i].set(-value)
            total = moving.total + value + sum(jnp.sum(g) for g in jax.tree.leaves(gradient))
            return Moving(params, memory, history, total)

        zero = jnp.zeros((), dtype_of(state.params))
        start = Moving(state.params, state.optimizer, state.history, zero)
        moved: Moving = jax.lax.fori_loop(0, count, step, start)
        return moved

    def piece(carry: tuple[GradientState, Array]) -> tuple[GradientState, Array]:
        state, cautious = carry
        estimator = state.estimator
        if len(losses) > 1:
            due = state.step % MEASURE_EVERY == 0
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
        unbroken: Array = (carry[0].step < limit) & ~carry[0].failed
        return unbroken

    final: GradientState = jax.lax.while_loop(more, piece, (state, jnp.zeros((), bool)))[0]
    return final


def failing_term(
    log_density: LogDensity,
    family: Family,
    optimizer: optax.GradientTransformationExtraArgs,
    state: GradientState,
    key: PRNGKeyArray,
    settings: Settings,
    gradient: str,
) -> Array:
    """Index of the first of ``TERMS`` that is not finite in the step that failed."""
    noise = noise_at(family, settings, state.params, key, state.step)
    draws = transform(family, state.params, noise, gradient)
    loss = negative_elbo(log_density, family, gradient)
    params, _, _, slope = update(optimizer, loss, state.params, state.optimizer, noise)
    checks = (draws.each(log_density), draws.entropy, slope, params)
    return jnp.argmax(jnp.stack([~_all_finite(check) for check in checks]))


def _all_finite(tree: Any) -> Array:
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
