"""The loop of an optax optimizer, whose gradient estimator is chosen by its measured variance."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from equipoise._types import Array, PRNGKeyArray, Scalar
from equipoise.vi._family import Family
from equipoise.vi._terms import LogDensity, draw

PATHWISE = ("closed_form_entropy", "sticking_the_landing")
MEASURE_EVERY = 100
MEASUREMENTS = 8
TERMS = ("", "log density", "log density of q", "gradient of the ELBO", "updated parameters")


class GradientState(NamedTuple):
    """Everything that the loop continues from; ``failed_term`` indexes ``TERMS``."""

    step: Array
    params: Any
    optimizer: Any
    estimator: Array
    history: Array
    failed_term: Array


class Settings(NamedTuple):
    """The static choices of the loop."""

    where: str
    num_samples: int
    gradients: tuple[str, ...]
    draws: str
    fixed: bool


def begin(params: Any, optimizer: Any, num_steps: int) -> GradientState:
    """The state before the first step."""
    zero = jnp.zeros((), jnp.int32)
    dtype = jax.tree.leaves(params)[0].dtype
    history = jnp.full(num_steps, jnp.nan, dtype)
    return GradientState(zero, params, optimizer.init(params), zero, history, zero)


def objective(
    log_density: LogDensity, family: Family, settings: Settings, gradient: str
) -> Callable[[Any, PRNGKeyArray], tuple[Scalar, tuple[Scalar, Scalar]]]:
    """Negative ELBO of params and key, with its two terms."""

    def negative_elbo(params: Any, key: PRNGKeyArray) -> tuple[Scalar, tuple[Scalar, Scalar]]:
        sample = draw(
            settings.where,
            family,
            params,
            key,
            num_samples=settings.num_samples,
            gradient=gradient,
            draws=settings.draws,
            replications=1,
        )
        values = sample.each(log_density)
        terms = sample.credited(values + sample.entropy)
        return -jnp.mean(terms), (jnp.mean(values), jnp.mean(sample.entropy))

    return negative_elbo


def noise_of(gradient: Callable[[Any, PRNGKeyArray], Any], params: Any, key: PRNGKeyArray) -> Array:
    """Variance of a gradient summed over its coordinates."""
    repeats, _ = jax.lax.map(lambda k: gradient(params, k), jax.random.split(key, MEASUREMENTS))
    return sum(
        (jnp.sum(jnp.var(leaf, axis=0)) for leaf in jax.tree.leaves(repeats)),
        start=jnp.zeros((), jax.tree.leaves(params)[0].dtype),
    )


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

    Step i draws with the key folded with i, so a loop that is cut in two takes the same steps.
    Every ``MEASURE_EVERY`` steps the estimator with the smallest measured variance is chosen.
    """
    losses = [objective(log_density, family, settings, name) for name in settings.gradients]
    several = len(losses) > 1

    def choose(state: GradientState, key: PRNGKeyArray) -> Array:
        noises = [noise_of(jax.grad(f, has_aux=True), state.params, key) for f in losses]
        return jnp.argmin(jnp.stack(noises)).astype(jnp.int32)

    def step(state: GradientState) -> GradientState:
        here = key if settings.fixed else jax.random.fold_in(key, state.step)
        estimator = state.estimator
        if several:
            estimator = jax.lax.cond(
                state.step % MEASURE_EVERY == 0,
                lambda: choose(state, jax.random.fold_in(here, 1)),
                lambda: state.estimator,
            )
        measured = [jax.value_and_grad(f, has_aux=True) for f in losses]
        (loss, (log_p, entropy)), gradient = (
            jax.lax.switch(estimator, measured, state.params, here)
            if several
            else measured[0](state.params, here)
        )
        # optax counts steps in integers and mixes them with floats.
        with jax.numpy_dtype_promotion("standard"):
            updates, memory = optimizer.update(
                gradient,
                state.optimizer,
                state.params,
                value=loss,
                grad=gradient,
                value_fn=lambda p: losses[0](p, here)[0],
            )
            params = optax.apply_updates(state.params, updates)
        checks = (log_p, entropy, gradient, params)
        bad = jnp.stack([~_all_finite(check) for check in checks])
        term = jnp.where(jnp.any(bad), 1 + jnp.argmax(bad), 0).astype(jnp.int32)
        good = GradientState(
            step=state.step + 1,
            params=params,
            optimizer=memory,
            estimator=estimator,
            history=state.history.at[state.step].set(-loss),
            failed_term=term,
        )
        kept = state._replace(failed_term=term)
        chosen: GradientState = jax.tree.map(lambda g, k: jnp.where(term == 0, g, k), good, kept)
        return chosen

    def more(state: GradientState) -> Array:
        unbroken: Array = (state.step < limit) & (state.failed_term == 0)
        return unbroken

    final: GradientState = jax.lax.while_loop(more, step, state)
    return final


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
