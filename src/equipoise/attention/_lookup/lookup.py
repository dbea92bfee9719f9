"""Which query reads a wanted mixture of values, and how far its output can be off."""

import enum
import functools
from typing import Self

import jax
import jax.numpy as jnp

from equipoise._check import at, floating_array, value_error
from equipoise._types import Array, Float, Int, Scalar, result
from equipoise.attention._kernel.mesh import replicated
from equipoise.attention._lookup.least_norm import (
    CONTRADICTORY,
    SEPARATED,
    SOLVED,
    UNFINISHED,
    least_norm,
)


class LookupReason(enum.IntEnum):
    """What became of a target: reached, or why no query reads it.

    ``attention.LookupReason(int(found.reason)).sentence`` says it in words.
    """

    sentence: str

    def __new__(cls, value: int, sentence: str) -> Self:
        """A number that arrays can hold, with its sentence."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.sentence = sentence
        return member

    REACHED = 0, "reached"
    RATIOS_CONTRADICT = (
        1,
        "the keys of the mixture are affinely dependent and no query gives these ratios",
    )
    INSIDE_THE_HULL = 2, "the keys of the mixture cannot be separated from the others"
    NOT_A_MIXTURE = 3, "the weights are not finite, non-negative and somewhere positive"
    UNFINISHED = 4, "rounding kept the search from ending"


# The reasons for the ways in which the search for a least norm ends.
_ENDS = {
    SOLVED: LookupReason.REACHED,
    CONTRADICTORY: LookupReason.RATIOS_CONTRADICT,
    SEPARATED: LookupReason.INSIDE_THE_HULL,
    UNFINISHED: LookupReason.UNFINISHED,
}


@result
class LookupQuery:
    """A query, what its softmax attains, or the reason why there is none.

    Attributes:
        query: Least-norm query q, ``(d,)``; NaN where the target cannot be reached.
        feasible: Whether the target can be reached.
        reason: 0 where it can, otherwise a number of :class:`LookupReason`.
        weights: Attained softmax(k q), ``(n,)``; NaN where the target cannot be reached.
        margin: Attained distance in score between mixture and best other key; at least the
            sharpness up to rounding, infinite without other keys.
        norm: ‖q‖.
        certificate: c, ``(n,)``, the proof where no query exists: Σc = 0 and Σ c_i k_i = 0 with
            c_i ≤ 0 on keys that should not be read. Zero where the target is reached.
    """

    query: Float[Array, " d"]
    feasible: Array
    reason: Int[Array, ""]
    weights: Float[Array, " n"]
    margin: Scalar
    norm: Scalar
    certificate: Float[Array, " n"]


@at("attention.lookup_query")
@replicated
def lookup_query(
    keys: Float[Array, "n d"], weights: Float[Array, " n"], *, sharpness: Scalar | float
) -> LookupQuery:
    r"""Least-norm query whose softmax reads a wanted mixture of the keys.

    .. math::

        \min_q \tfrac12 |q|^2 \quad\text{with}\quad
        (k_a - k_b) \cdot q = \log \frac{w_a}{w_b} \;\; (a, b \in A), \qquad
        \log \tfrac{1}{|A|} \textstyle\sum_{a \in A} e^{k_a \cdot q} - k_i \cdot q \ge \beta
        \;\; (i \notin A)

    A is where w > 0. The weights within A are exact; what leaks to other keys is at most
    :func:`lookup_error_bound` at margin β. One-hot w copies one value, w uniform on a set averages.
    Only differences of scores matter to softmax, so q has no part along which all scores move
    alike: with orthonormal keys, copying key j is β(k_j − mean of all keys), which has the
    scores of β k_j less a constant, and a smaller norm. Scores are unscaled: pass ``scale=1.0`` to
    the attention, or multiply q by √d.

    Args:
        keys: k, one row per key. Shape ``(n, d)``.
        weights: w, the mixture, normalized here to sum to one. Shape ``(n,)``.
        sharpness: β, how far the other keys' scores lie below the (log-mean-exp) score of the
            mixture. A scalar.

    Returns:
        :class:`LookupQuery`. If no query will do, ``feasible`` is false, ``reason`` says why,
        ``certificate`` proves it and the query is NaN: a mixture whose keys are affinely dependent
        may have ratios that contradict, or the affine hull of the mixture's keys meets the convex
        hull of the others. Weights that are negative, not finite or all zero are no mixture. With
        no key outside the mixture, β does not matter.

    Raises:
        ValueError: If ``keys`` is not a non-empty matrix, or ``weights`` or ``sharpness`` has
            another shape.
        TypeError: If one of them is not floating-point.

    Cost: O(m · n·d·min(n, d)) FLOPs, m active keys; derivatives cost one solve of that size.

    Examples:
        >>> keys = jnp.eye(4)
        >>> found = attention.lookup_query(
        ...     keys, jnp.array([0.5, 0.5, 0.0, 0.0]), sharpness=10.0)
        >>> print(np.round(found.query.tolist(), 3), found.feasible)
        [ 5.  5. -5. -5.] True
        >>> line = jnp.array([[0.0], [1.0], [2.0]])
        >>> stuck = attention.lookup_query(line, jnp.array([0.0, 1.0, 0.0]), sharpness=1.0)
        >>> attention.LookupReason(int(stuck.reason)).sentence
        'the keys of the mixture cannot be separated from the others'
        >>> print(stuck.certificate / stuck.certificate[1])  # the mean of the others
        [-0.5  1.  -0.5]

    References:
        :cite:t:`goldfarb1983`; :cite:t:`vaswani2017`.
    """
    keys, weights, dtype = checked(keys, weights)
    return _query(keys, weights, scalar("sharpness", sharpness), dtype)


@functools.partial(jax.jit, static_argnames="dtype")
def _query(keys: Array, weights: Array, sharpness: Array, dtype: jnp.dtype) -> LookupQuery:
    beta = sharpness.astype(keys.dtype)
    support, log_weights, valid = mixture(weights)
    size = jnp.sum(support, dtype=keys.dtype)
    anchor = jnp.argmax(jnp.where(support, log_weights, -jnp.inf))
    away = keys - keys[None, anchor]
    # k_a·q = t + log w_a and log-mean-exp over A = t − log |A|; differences to the anchor drop t.
    ratio = log_weights - log_weights[anchor]
    gap = beta + jnp.log(size) + log_weights[anchor]
    sign = jnp.where(support, 1, -1).astype(keys.dtype)
    found = least_norm(
        sign[:, None] * away,
        jnp.where(support, ratio, gap),
        support & (jnp.arange(len(keys)) != anchor) & valid,
        ~support & valid,
    )
    reason = jnp.where(
        valid, jnp.asarray([_ENDS[i] for i in range(4)])[found.status], LookupReason.NOT_A_MIXTURE
    )
    feasible = reason == LookupReason.REACHED
    query = jnp.where(feasible, found.solution, jnp.nan)
    certificate = jnp.where(valid, sign * found.certificate, 0)
    scores = keys @ query
    inside = jax.nn.logsumexp(scores, where=support) - jnp.log(size)
    margin = inside - jnp.max(jnp.where(support, -jnp.inf, scores))
    # Without this the norm has no gradient at q = 0, which a uniform mixture of all keys reads.
    squared = query @ query
    norm = jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), squared)
    return LookupQuery(
        query=query.astype(dtype),
        feasible=feasible,
        reason=reason.astype(jnp.int32),
        weights=jax.nn.softmax(scores).astype(dtype),
        margin=margin.astype(dtype),
        norm=norm.astype(dtype),
        certificate=certificate.at[anchor].add(-jnp.sum(certificate)).astype(dtype),
    )


@at("attention.lookup_margin")
@replicated
def lookup_margin(keys: Float[Array, "n d"], weights: Float[Array, " n"]) -> Scalar:
    r"""Largest gap in score that a unit query opens below the keys of the mixture.

    .. math::

        \gamma = \max_{|u| \le 1,\; u \cdot k_a = u \cdot k_b} \; \min_{i \notin A} \;
            (k_a - k_i) \cdot u
        = \operatorname{dist}\bigl(\operatorname{aff} \{k_a\}_{a \in A},\;
            \operatorname{conv} \{k_i\}_{i \notin A}\bigr)

    A is where w > 0. To average A with margin β takes a query of norm β / γ, so with norm R the
    error is :func:`lookup_error_bound` at margin γR. It is a support vector machine's margin.

    Args:
        keys: k, one row per key. Shape ``(n, d)``.
        weights: w; only where it is positive matters. Shape ``(n,)``.

    Returns:
        γ, a scalar in the units of ``keys``: 0 with gradient 0 where the hulls meet and no query
        reads A alone, infinite if A is all keys, NaN if ``weights`` is no mixture.

    Raises:
        ValueError: If ``keys`` is not a non-empty matrix, or ``weights`` has another length.
        TypeError: If one of them is not floating-point.

    Cost: as :func:`lookup_query`.

    Examples:
        >>> print(attention.lookup_margin(jnp.eye(2), jnp.array([1.0, 0.0])))
        1.4142135
        >>> square = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> print(attention.lookup_margin(square, jnp.array([0.5, 0.0, 0.0, 0.5])))
        0.0

    References:
        :cite:t:`cortes1995`; :cite:t:`goldfarb1983`.
    """
    return _margin(*checked(keys, weights))


@functools.partial(jax.jit, static_argnames="dtype")
def _margin(keys: Array, weights: Array, dtype: jnp.dtype) -> Array:
    support, log_weights, valid = mixture(weights)
    anchor = jnp.argmax(jnp.where(support, log_weights, -jnp.inf))
    away = keys - keys[None, anchor]
    found = least_norm(
        jnp.where(support[:, None], away, -away),
        jnp.where(support, 0, 1).astype(keys.dtype),
        support & (jnp.arange(len(keys)) != anchor) & valid,
        ~support & valid,
    )
    squared = found.solution @ found.solution
    solved = (found.status == SOLVED) & (squared > 0)
    margin = jnp.where(solved, jax.lax.rsqrt(jnp.where(solved, squared, 1)), 0)
    margin = jnp.where(found.status == UNFINISHED, jnp.nan, margin)
    margin = jnp.where(jnp.all(support), jnp.inf, margin)
    return jnp.where(valid, margin, jnp.nan).astype(dtype)


def mixture(weights: Array) -> tuple[Array, Array, Array]:
    """Where w > 0, log of the normalized w there (0 elsewhere), and whether w is a mixture."""
    valid = jnp.all(jnp.isfinite(weights)) & jnp.all(weights >= 0) & jnp.any(weights > 0)
    # What is no mixture is treated as uniform, so that the branch not taken stays finite.
    weights = jnp.where(valid, weights, 1)
    support = weights > 0
    logs = jnp.log(jnp.where(support, weights, 1)) - jnp.log(jnp.sum(weights))
    return support, jnp.where(support, logs, 0), valid


def checked(keys: Array, weights: Array, *, name: str = "keys") -> tuple[Array, Array, jnp.dtype]:
    """Both arrays in the first one's dtype, but 32 bits at least; and the dtype of the result."""
    keys = floating_array(name, keys)
    weights = floating_array("weights", weights)
    if keys.ndim != 2 or keys.shape[0] == 0:
        raise value_error(
            name, "must be a matrix with a row for each key", keys, "Use vmap for batches."
        )
    if weights.shape != keys.shape[:1]:
        raise value_error("weights", f"must have shape ({len(keys)},), one for each key", weights)
    wide = keys.dtype if keys.dtype.itemsize >= 4 else jnp.float32
    return keys.astype(wide), weights.astype(wide), keys.dtype


def scalar(argument: str, value: Array | float) -> Array:
    array = floating_array(argument, value)
    if array.ndim != 0:
        raise value_error(argument, "must be a scalar", array)
    return array
