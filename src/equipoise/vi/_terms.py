"""Terms of the ELBO draw by draw, whose derivative is that of the chosen gradient estimator."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from equipoise._check_old import choice, value_error
from equipoise._types import Array, PRNGKeyArray, PyTree, Scalar
from equipoise.vi._draws import block_shape, noise_blocks
from equipoise.vi._estimate import Estimate, standard_error
from equipoise.vi._family import Family, check_params

GRADIENTS = ("closed_form_entropy", "sticking_the_landing", "score_function")
LogDensity = Callable[[PyTree], Scalar]


def checked_density(where: str, argument: str, log_density: LogDensity, dtype: Any) -> LogDensity:
    """The log density, which raises where it does not return one floating-point number."""

    def density(position: PyTree) -> Scalar:
        value = jnp.asarray(log_density(position))
        if value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
            raise value_error(
                where,
                argument,
                "must return one floating-point number for one position",
                value,
                "Sum over the data inside it; positions are mapped for you.",
            )
        return value.astype(dtype)

    return density


def dtype_of(params: Any) -> Any:
    """Dtype of the params, which is that of the noise and of every sum."""
    return jnp.asarray(jax.tree.leaves(params)[0]).dtype


def estimate(blocks: Array) -> Estimate:
    """Mean over all draws, with the standard error that independent blocks allow."""
    return Estimate(jnp.mean(blocks), standard_error(jnp.mean(blocks, axis=1)))


class Draws(NamedTuple):
    """Positions drawn from q in independent blocks, with what an expectation under q needs.

    Every field leads with the axes ``(blocks, draws in a block)``.
    """

    positions: PyTree
    entropy: Array
    score: Array | None

    def each(self, function: LogDensity) -> Array:
        """The function at every position."""
        return jax.vmap(jax.vmap(function))(self.positions)

    def credited(self, values: Array) -> Array:
        """The values, with the score-function gradient where positions carry none.

        The baseline of a draw is the mean over the other blocks: independent of the draw, so that
        it changes the variance alone.
        """
        if self.score is None:
            return values
        fixed = jax.lax.stop_gradient(values)
        blocks = values.shape[0]
        means = jnp.mean(fixed, axis=1, keepdims=True)
        others = (jnp.sum(means) - means) / (blocks - 1)
        return values + (fixed - others) * self.score


def draw(
    where: str,
    family: Family,
    params: Any,
    key: PRNGKeyArray,
    *,
    num_samples: int,
    gradient: str,
    draws: str,
    replications: int,
) -> Draws:
    """Draws from q whose derivative is that of the chosen gradient estimator."""
    check_params(where, family.init, params)
    shape = check(where, family, num_samples, gradient, draws, replications=replications)
    return transform(
        family, params, variates(family, key, shape, dtype_of(params), draws), gradient
    )


def check(
    where: str, family: Family, num_samples: int, gradient: str, draws: str, *, replications: int
) -> tuple[int, int]:
    """The blocks of draws, and the draws in each, once the options fit the family."""
    choice(where, "gradient", gradient, GRADIENTS)
    shape = block_shape(where, num_samples, draws, replications)
    score = gradient == "score_function"
    if score and shape[0] < 2:
        raise value_error(
            where,
            "num_samples",
            "must give two independent blocks of draws for a leave-one-out baseline",
            f"{num_samples} {draws} draws in {shape[0]} block",
        )
    if family.transform_flat is None and not (score and draws == "iid"):
        raise value_error(
            where,
            "gradient",
            "must be 'score_function', with iid draws, for a family that is not reparameterized",
            f"{gradient!r} with {draws} draws of {family.name}",
            "Its draws have no derivative.",
        )
    return shape


def variates(
    family: Family, key: PRNGKeyArray, shape: tuple[int, int], dtype: Any, draws: str
) -> Array:
    """What the draws are made of: normal variates, or a key for each where there is no path."""
    if family.transform_flat is None:
        return jax.random.split(key, shape)
    return noise_blocks(key, shape, family.noise_size, dtype, draws)


def transform(family: Family, params: Any, noise: Array, gradient: str) -> Draws:
    """The draws that :func:`variates` make."""
    fixed = jax.lax.stop_gradient(params)
    if family.transform_flat is None:

        def one(key: PRNGKeyArray) -> PyTree:
            return jax.tree.map(lambda leaf: leaf[0], family.sample(fixed, key, 1))

        positions = jax.lax.stop_gradient(jax.vmap(jax.vmap(one))(noise))
        log_q = _each(family.log_prob, params, positions)
        score = log_q - jax.lax.stop_gradient(log_q)
        return Draws(positions, -jax.lax.stop_gradient(log_q), score)
    score = None
    if gradient == "score_function":
        flat = _each(family.transform_flat, fixed, noise)
        log_q = _each(family.log_prob_flat, params, flat)
        score = log_q - jax.lax.stop_gradient(log_q)
        entropy = -jax.lax.stop_gradient(log_q)
    else:
        flat = _each(family.transform_flat, params, noise)
        closed = gradient == "closed_form_entropy"
        entropy = (
            _each(family.entropy_term, params, noise)
            if closed
            else -_each(family.log_prob_flat, fixed, flat)
        )
    volume = jax.vmap(jax.vmap(family.log_volume))(flat)
    return Draws(jax.vmap(jax.vmap(family.unravel))(flat), entropy + volume, score)


def require_path(where: str, family: Family, needed: str, got: str) -> None:
    """The family has a differentiable map from noise to positions."""
    if family.transform_flat is None:
        raise value_error(
            where,
            "family",
            f"must be reparameterized {needed}",
            got,
            f"Draws of {family.name} have no derivative; vi.elbo has gradient='score_function'.",
        )


def _each(function: Callable[[Any, Any], Any], params: Any, values: Any) -> Any:
    mapped = jax.vmap(jax.vmap(function, (None, 0)), (None, 0))
    return mapped(params, values)
