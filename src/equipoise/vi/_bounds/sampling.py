"""How many draws of q, of which kind, and by which estimator their gradient goes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._check import choice, random_key, value_error
from equipoise._types import Array, PRNGKeyArray
from equipoise.vi._bounds.density import dtype_of
from equipoise.vi._bounds.estimate import Estimate, standard_error
from equipoise.vi._bounds.estimators import ESTIMATORS, Draws, draws_from
from equipoise.vi._families.draws import block_shape, noise_blocks
from equipoise.vi._families.family import Family, Params, check_params, completed


class Sampling(NamedTuple):
    """The options of a mean over draws, as in :func:`elbo`."""

    num_samples: int
    gradient: str
    draws: str
    replications: int


def draw(family: Family, params: Params, key: PRNGKeyArray, options: Sampling) -> Draws:
    """Draws from q whose derivative is that of the chosen gradient estimator."""
    family = completed(family)
    check_params(family, params)
    random_key("key", key)
    shape = check_sampling(family, options)
    noise = variates(family, key, shape, dtype_of(params), options.draws)
    return draws_from(family, params, noise, options.gradient)


def check_sampling(family: Family, options: Sampling) -> tuple[int, int]:
    """The blocks of draws, and the draws in each, once the options fit the family."""
    number, gradient, draws, replications = options
    choice("gradient", gradient, ESTIMATORS)
    shape = block_shape(number, draws, replications)
    score = gradient == "score_function"
    if score and shape[0] < 2:
        raise value_error(
            "num_samples",
            "must give two independent blocks of draws for a leave-one-out baseline",
            f"{number} {draws} draws in {shape[0]} block",
        )
    if family.transform_flat is None and not (score and draws == "iid"):
        raise value_error(
            "gradient",
            "must be 'score_function', with iid draws, for a family that is not reparameterized",
            f"{gradient!r} with {draws} draws of {family.name}",
            "Its draws have no derivative.",
        )
    return shape


def variates(
    family: Family, key: PRNGKeyArray, shape: tuple[int, int], dtype: np.dtype, draws: str
) -> Array:
    """What the draws are made of: normal variates, or a key for each where there is no path."""
    if family.transform_flat is None:
        return jax.random.split(key, shape)
    return noise_blocks(key, shape, family.noise_size, dtype, draws)


def estimate(blocks: Array) -> Estimate:
    """Mean over all draws, with the standard error that independent blocks allow."""
    return Estimate(jnp.mean(blocks), standard_error(jnp.mean(blocks, axis=1)))
