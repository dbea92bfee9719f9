"""Standard normal variates from which draws are made: independent, antithetic, quasi-random."""

import functools
import math
from typing import TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._check import choice, positive_integer, value_error
from equipoise._types import Array, PRNGKeyArray, PyTree

DRAWS = ("iid", "antithetic", "quasi_random")
_A = TypeVar("_A", Array, np.ndarray)
AnyArray: TypeAlias = PyTree  # of JAX, or of NumPy on the host


def independent(key: PRNGKeyArray, num_samples: int, size: int, dtype: np.dtype) -> Array:
    """Independent standard normal variates, the same numbers whatever the dtype.

    Made as one vector, which on a CPU takes a third of the time of a narrow matrix. The uniform
    ones are exact in float32, so that compiled functions round the normal ones in their own dtype.
    """
    least = np.nextafter(np.float32(-1), np.float32(0))
    uniform = jax.random.uniform(key, (num_samples * size,), "float32", least, 1.0)
    wide = uniform.astype(dtype if jnp.dtype(dtype).itemsize > 4 else "float32")
    return (2**0.5 * jax.lax.erf_inv(wide)).astype(dtype).reshape(num_samples, size)


def affine(mean: _A, factor: _A, noise: _A) -> _A:
    """Rows m + W ε."""
    return mean[None] + noise @ factor.T


def block_shape(num_samples: int, draws: str, replications: int) -> tuple[int, int]:
    """How many independent blocks of draws there are, and how many draws each of them has."""
    positive_integer("num_samples", num_samples)
    positive_integer("replications", replications)
    choice("draws", draws, DRAWS)
    if draws == "iid":
        return num_samples, 1
    blocks, advice = (
        (num_samples // 2, "Pairs of draws mirror each other.")
        if draws == "antithetic"
        else (replications, "Each replication has the same number of draws.")
    )
    size = 2 if draws == "antithetic" else num_samples // replications
    if blocks * size != num_samples or size == 0:
        divisor = 2 if draws == "antithetic" else replications
        raise value_error(
            "num_samples",
            f"must be a multiple of {divisor} with {draws} draws",
            num_samples,
            advice,
        )
    return blocks, size


def noise_blocks(
    key: PRNGKeyArray, shape: tuple[int, int], size: int, dtype: np.dtype, draws: str
) -> Array:
    """Standard normal variates ``(blocks, draws in a block, size)``; blocks are independent."""
    blocks, m = shape
    if draws == "quasi_random":
        points = jax.vmap(lambda k: _quasi_random(k, m, size))(jax.random.split(key, blocks))
        return points.astype(dtype)
    noise = independent(key, blocks, size, dtype)[:, None, :]
    return noise if draws == "iid" else jnp.concatenate([noise, -noise], axis=1)


def _quasi_random(key: PRNGKeyArray, n: int, size: int) -> Array:
    """Normal quantiles of a randomly shifted lattice, folded so that points mirror each other.

    Coordinates for which the lattice has no direction left are randomly permuted instead.
    """
    vector = _generating_vector(n, size)
    lattice = jnp.asarray(np.outer(np.arange(n), vector) % n, jnp.int32)
    shift_key, permutation_key = jax.random.split(key)
    permutation_keys = jax.random.split(permutation_key, size - len(vector))
    permuted = jax.vmap(lambda k: jax.random.permutation(k, n))(permutation_keys)
    rank = jnp.concatenate([lattice, permuted.T.astype(jnp.int32)], axis=1).astype("float32")
    shift = jnp.broadcast_to(jax.random.uniform(shift_key, (1, size), "float32"), rank.shape)
    folded = 1 - jnp.abs(2 * jnp.remainder(rank / n + shift, 1) - 1)
    # Both ends of the unit interval are kept out: their quantiles are infinite.
    return jax.scipy.special.ndtri(jnp.clip(folded, 2.0**-25, 1 - 2.0**-24))


@functools.lru_cache(maxsize=64)
def _generating_vector(n: int, size: int) -> tuple[int, ...]:
    """Directions of a rank-1 lattice, chosen one after the other for the least discrepancy.

    The criterion is the worst-case error for mixed first derivatives, with weight 1/j on the j-th
    coordinate. A direction and its negative give the same points, so there are φ(n)/2.
    """
    units = [z for z in range(1, n // 2 + 1) if math.gcd(z, n) == 1]
    # More candidates cost more time than they gain accuracy.
    left = units[:: -(-len(units) // 128)] if units else []
    x = np.arange(n) / n
    bernoulli = 2 * np.pi**2 * (x**2 - x + 1 / 6)
    product, vector = np.ones(n), []
    for j in range(min(size, len(left))):
        factors = 1 + bernoulli[np.outer(left, np.arange(n)) % n] / (j + 1)
        best = int(np.argmin(factors @ product))
        product *= factors[best]
        vector.append(left.pop(best))
    return tuple(vector)
