"""The public attention function: a drop-in for :func:`jax.nn.dot_product_attention`, and more."""

from collections.abc import Callable
from typing import Literal, Unpack, overload

import jax.numpy as jnp

from equipoise._check import at, choice, positive_integer, value_error
from equipoise._types import Array, Bool, Float, Int, PRNGKeyArray
from equipoise.attention._fused.request import refusal, serves
from equipoise.attention._fused.tower import attend
from equipoise.attention._kernel.blockwise import blockwise
from equipoise.attention._kernel.mesh import placed_by
from equipoise.attention._kernel.problem import Problem
from equipoise.attention._masks.kinds import Window
from equipoise.attention._masks.mask import Mask
from equipoise.attention._reference import places, with_sinks
from equipoise.attention._request import Options, problem_of

_IMPLEMENTATIONS = ("blockwise", "xla", "cudnn")


class _Options(Options, total=False):
    implementation: str | None
    block_size: int | None


@overload
def dot_product_attention(
    query: Float[Array, "*batch t n h"],
    key: Float[Array, "*batch s k h"],
    value: Float[Array, "*batch s k e"],
    bias: Float[Array, "..."] | None = None,
    mask: Bool[Array, "..."] | Mask | None = None,
    *,
    return_residual: Literal[False] = False,
    **options: Unpack[_Options],
) -> Float[Array, "*batch t n e"]: ...


@overload
def dot_product_attention(
    query: Float[Array, "*batch t n h"],
    key: Float[Array, "*batch s k h"],
    value: Float[Array, "*batch s k e"],
    bias: Float[Array, "..."] | None = None,
    mask: Bool[Array, "..."] | Mask | None = None,
    *,
    return_residual: Literal[True],
    **options: Unpack[_Options],
) -> tuple[Float[Array, "*batch t n e"], Float[Array, "*batch t n"]]: ...


# mypy compares an overload with the names of the keywords, but does not read them from _Options.
@at("attention.dot_product_attention")  # type: ignore[misc]
@placed_by(places)
def dot_product_attention(
    query: Float[Array, "*batch t n h"],
    key: Float[Array, "*batch s k h"],
    value: Float[Array, "*batch s k e"],
    bias: Float[Array, "..."] | None = None,
    mask: Bool[Array, "..."] | Mask | None = None,
    *,
    scale: float | Float[Array, ""] | None = None,
    is_causal: bool = False,
    query_seq_lengths: Int[Array, "*batch"] | None = None,
    key_value_seq_lengths: Int[Array, "*batch"] | None = None,
    local_window_size: Window = None,
    logits_soft_cap: float | None = None,
    segment_ids: Int[Array, "*batch t"] | tuple[Array, Array] | None = None,
    sinks: Float[Array, " n"] | None = None,
    query_offset: int | Int[Array, "*batch"] = 0,
    score_fn: Callable[..., Array] | None = None,
    mask_fn: Callable[..., Array] | None = None,
    dropout_rate: float = 0.0,
    dropout_key: PRNGKeyArray | None = None,
    implementation: str | None = None,
    block_size: int | None = None,
    return_residual: bool = False,
) -> Float[Array, "*batch t n e"] | tuple[Float[Array, "*batch t n e"], Float[Array, "*batch t n"]]:
    r"""Softmax attention in linear memory, exact and differentiable to any order.

    .. math::

        y_i = \frac{\sum_j m_{ij}\, e^{s_{ij}}\, v_j}{e^{\text{sink}} + \sum_j m_{ij}\, e^{s_{ij}}},
        \qquad s_{ij} = f\left(c\, q_i \cdot k_j + b_{ij}\right)

    Arguments shared with :func:`jax.nn.dot_product_attention` have its names, order, shapes and
    meaning. Blocks of rows meet blocks of keys one after the other; those that a mask rules out
    are not computed, neither here nor in any derivative. Sizes may be symbolic dimensions.

    Args:
        query: q. Shape ``(*batch, t, n, h)``.
        key: k. Shape ``(*batch, s, k, h)``; n is a multiple of k, each key head serves n/k heads.
        value: v. Shape ``(*batch, s, k, e)``.
        bias: b, added to the scores. Broadcasts to ``(*batch, n, t, s)``. −inf masks the pair.
        mask: m, a boolean array of that shape (true attends), or a mask value.
        scale: c, the factor on q·k. Default 1/√h.
        is_causal: Whether key j ≤ position of row i is required.
        query_seq_lengths: Rows of each batch entry; later ones are 0. Shape ``(*batch)``.
        key_value_seq_lengths: Keys of each batch entry. Shape ``(*batch)``.
        local_window_size: (left, right) of a band of positions, or one number for both. A side
            may be a scalar array.
        logits_soft_cap: x ↦ cap·tanh(x/cap) on the scores, after the bias.
        segment_ids: Ids, ``(*batch, t)``; only equal ids attend. A pair (rows, keys) if t ≠ s.
        sinks: A logit per head that takes weight and gives no value. Shape ``(n,)``.
        query_offset: Position of the first row, for causal masks, windows and functions of
            indices. An integer, or one for each batch entry. Key positions start at 0.
        score_fn: ``f(score, batch, head, q_index, k_index)`` on scalars, after the cap; may
            capture arrays and be differentiated by them. Batch axes count as one, flattened.
        mask_fn: ``f(batch, head, q_index, k_index)`` on scalars; true attends.
        dropout_rate: Probability that a weight is dropped; the others grow by 1/(1 − rate).
        dropout_key: Random key of the dropout, which does not depend on the block size.
        implementation: ``"blockwise"`` (or ``"xla"``) is this library's, ``"cudnn"`` the fused
            kernel of NVIDIA GPUs, or an error that says why not. None takes the kernel where a
            program is lowered for such a GPU, for values and first derivatives of what it
            serves in half precision, and this library's blocks for all else. Forward mode and
            further derivatives are by blocks, above either.
        block_size: Rows and keys of a block. Affects time and memory, not the result beyond
            rounding.
        return_residual: Whether to return the log-sum-exp of the scores (and sink) too, in the
            dtype of sums and with its gradient; :mod:`jax.nn` rounds it to that of ``key`` and
            stops its gradient.

    Returns:
        y, shape ``(*batch, t, n, e)`` in the dtype of ``value``; with ``return_residual`` also the
        log-sum-exp, shape ``(*batch, t, n)``, at least float32, which can be differentiated. A row
        with no key is 0, its gradients are 0 and its log-sum-exp is −inf (the sink, if there is
        one). What masked pairs hold, NaN too, reaches nothing. A row that may read a value that is
        not finite is not finite in that channel, and may be NaN in all.

    Raises:
        ValueError: If shapes disagree or do not broadcast, a rate is outside [0, 1), dropout has
            no key, or the implementation is unknown or cannot serve the request.
        TypeError: If arrays are not floating-point or differ in dtype, a mask is not boolean, or
            lengths, ids or offsets are not integers.

    Cost: 2·n·t·s·(h + e) FLOPs less what masks rule out; O(t + s) memory in every derivative.

    Examples:
        >>> x = jnp.eye(3)[:, None, :]
        >>> print(attention.dot_product_attention(x, x, x, is_causal=True, scale=0.0)[:, 0])
        [[1.         0.         0.        ]
         [0.5        0.5        0.        ]
         [0.33333334 0.33333334 0.33333334]]

    References:
        :cite:t:`vaswani2017`, equation 1; :cite:t:`milakov2018online`;
        :cite:t:`rabe2021`; :cite:t:`dao2022flash`; :cite:t:`ainslie2023gqa`.
    """
    problem = problem_of(
        query,
        key,
        value,
        bias,
        mask,
        scale=scale,
        is_causal=is_causal,
        query_seq_lengths=query_seq_lengths,
        key_value_seq_lengths=key_value_seq_lengths,
        local_window_size=local_window_size,
        logits_soft_cap=logits_soft_cap,
        segment_ids=segment_ids,
        sinks=sinks,
        query_offset=query_offset,
        score_fn=score_fn,
        mask_fn=mask_fn,
        dropout_rate=dropout_rate,
        dropout_key=dropout_key,
    )
    out, lse = attended(problem, implementation, block_size)
    out, lse = with_sinks(out, lse, problem.sinks)
    shape = jnp.shape(query)
    out = out.reshape(*shape[:-1], out.shape[-1]).astype(problem.value.dtype)
    return (out, lse.reshape(shape[:-1])) if return_residual else out


def attended(
    problem: Problem, implementation: str | None, block_size: int | None
) -> tuple[Array, Array]:
    """(o, lse) without sinks, in the dtype of sums, by what was asked for or serves."""
    if block_size is not None:
        block_size = positive_integer("block_size", block_size)
    if implementation == "reference":
        raise value_error(
            "implementation",
            f"must be one of {', '.join(map(repr, _IMPLEMENTATIONS))}",
            implementation,
            "The whole matrix is attention.reference_attention.",
        )
    if implementation is not None:
        implementation = choice("implementation", implementation, _IMPLEMENTATIONS)
    if implementation == "cudnn":
        refused = refusal(problem)
        if refused is not None:
            argument, expected, came = refused
            raise value_error(
                "implementation",
                f"'cudnn' serves only requests with `{argument}` {expected}",
                came,
                "Use implementation=None, which serves all.",
            )
        return attend(problem, forced=True)
    if implementation is None and block_size is None and serves(problem):
        return attend(problem)
    return blockwise(problem, block_size)
