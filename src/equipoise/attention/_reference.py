"""The definition of attention, over whole T × S matrices: the oracle that ships."""

import functools
from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._check import at
from equipoise._types import Array, Bool, Float, PyTree
from equipoise.attention._kernel.mesh import axes_of, place, placed, placed_by
from equipoise.attention._kernel.operations import only
from equipoise.attention._kernel.problem import Problem, dropout, scores, whole
from equipoise.attention._masks.mask import Mask
from equipoise.attention._request import Options, problem_of


@functools.partial(jax.jit, static_argnames=("batch", "wanted"), inline=True)
def _define(
    problem: Problem, batch: tuple[int, ...], wanted: tuple[bool, bool]
) -> tuple[Array, ...]:
    """The output, and what is wanted of log-sum-exp and scores; one program where eager.

    Scores have −inf where masked, which debugging tools find: they are no result unless wanted.
    """
    block = whole(problem)
    score, allowed = scores(block)
    reached = ~jnp.isneginf(score) if allowed is None else ~jnp.isneginf(score) & allowed
    score = only(score, reached, 0)
    lowest = np.finfo(score.dtype).min
    top = jnp.max(only(score, reached, lowest), axis=-1, keepdims=True, initial=lowest)
    weight = only(jnp.exp(score - jax.lax.stop_gradient(top)), reached, 0)
    total = jnp.sum(weight, axis=-1, keepdims=True)
    some = total != 0
    safe = only(total, some, 1)
    lse = only(jnp.log(safe) + jax.lax.stop_gradient(top), some, -jnp.inf)[..., 0]
    weight = weight / safe
    factor = dropout(block)
    weight = weight if factor is None else weight * factor
    *_, group = problem.sizes
    value = jnp.repeat(problem.value.astype(weight.dtype), group, axis=2)
    if allowed is None:
        out = jnp.einsum("bnts,bsne->btne", weight, value)
    else:
        # Term by term, because 0 · NaN is NaN and a masked value must reach nothing.
        allowed = jnp.broadcast_to(allowed, weight.shape)[..., None]
        terms = jnp.where(allowed, jnp.swapaxes(value, 1, 2)[:, :, None], 0)
        out = jnp.swapaxes(jnp.sum(weight[..., None] * terms, axis=-2), 1, 2)
    out, lse = with_sinks(out, jnp.swapaxes(lse, 1, 2), problem.sinks)
    results = [out.astype(problem.value.dtype)]
    results += [lse] if wanted[0] else []
    results += [only(score, reached, -jnp.inf)] if wanted[1] else []
    return tuple(x.reshape(*batch, *x.shape[1:]) for x in results)


def with_sinks(out: Array, lse: Array, sinks: Array | None) -> tuple[Array, Array]:
    """A logit per query head that takes weight and gives no value."""
    return (out, lse) if sinks is None else _with_sinks(out, lse, sinks)


@functools.partial(jax.jit, inline=True)
def _with_sinks(out: Array, lse: Array, sinks: Array) -> tuple[Array, Array]:
    sink = jnp.broadcast_to(sinks.astype(lse.dtype)[None, None], lse.shape)
    share = jax.nn.sigmoid(lse - sink)
    return out * share[..., None], jnp.logaddexp(lse, sink)


def places(arguments: dict[str, PyTree]) -> PyTree:
    """Where results lie: the output, its log-sum-exp and the scores, as far as they are asked."""
    query = arguments["query"]
    *batch, row, head, _ = axes_of(query)
    results = [place(query, without=1, beside=1)]
    if arguments["return_residual"]:
        results.append(place(query, without=1))
    if arguments.get("return_scores"):
        results.append(placed(*batch, head, row, None))
    return results[0] if len(results) == 1 else tuple(results)


@at("attention.reference_attention")
@placed_by(places)
def reference_attention(
    query: Float[Array, "*batch t n h"],
    key: Float[Array, "*batch s k h"],
    value: Float[Array, "*batch s k e"],
    bias: Float[Array, "..."] | None = None,
    mask: Bool[Array, "..."] | Mask | None = None,
    *,
    return_residual: bool = False,
    return_scores: bool = False,
    **options: Unpack[Options],
) -> Array | tuple[Array, ...]:
    r"""Softmax attention by its definition, with the whole matrix of scores.

    .. math::

        y_i = \frac{\sum_j m_{ij}\, e^{s_{ij}}\, v_j}{e^{\text{sink}} + \sum_j m_{ij}\, e^{s_{ij}}},
        \qquad s_{ij} = f\left(c\, q_i \cdot k_j + b_{ij}\right)

    Args:
        query: q. Shape ``(*batch, t, n, h)``.
        key: k. Shape ``(*batch, s, k, h)``.
        value: v. Shape ``(*batch, s, k, e)``.
        bias: b, added to the scores. Broadcasts to ``(*batch, n, t, s)``.
        mask: m, a boolean array of that shape, or a mask value.
        return_residual: Whether to return the log-sum-exp too.
        return_scores: Whether to return the scores too, −inf where masked.
        **options: The keyword arguments of :func:`dot_product_attention` from ``scale`` to
            ``dropout_key``, with its meanings.

    Returns:
        y, shape ``(*batch, t, n, e)``; with ``return_residual`` also its log-sum-exp ``(*batch,
        t, n)``; with ``return_scores`` also s, ``(*batch, n, t, s)``. Rows with no key are 0.

    Raises:
        ValueError: If shapes disagree, as :func:`dot_product_attention` says.
        TypeError: If an option is unknown, or dtypes are wrong, as :func:`dot_product_attention`
            says.

    Cost: 2·n·t·s·(h + e) FLOPs; O(n·t·s·e) memory: for small inputs and for tests.

    Examples:
        >>> x = jnp.eye(2)[:, None, :]
        >>> y, s = attention.reference_attention(x, x, x, scale=1.0, return_scores=True)
        >>> print(s[0])
        [[1. 0.]
         [0. 1.]]

    References:
        :cite:t:`vaswani2017`, equation 1.
    """
    problem = problem_of(query, key, value, bias, mask, **options)
    wanted = return_residual, return_scores
    results = _define(problem.as_arrays(), jnp.shape(query)[:-3], wanted)
    return results[0] if len(results) == 1 else results
