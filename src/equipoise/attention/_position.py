"""Where a token is: by turning queries and keys, or by a slope on the scores."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import dtypes

from equipoise._check import at, floating_array, positive_integer, type_error, value_error
from equipoise._types import Array, Float, Int, Scalar, result
from equipoise.attention._kernel.mesh import place, placed_by


@at("attention.rotary_embedding")
@placed_by(lambda arguments: place(arguments["x"]))
def rotary_embedding(
    x: Float[Array, "*batch t n h"],
    positions: Int[Array, "*batch t"] | None = None,
    *,
    offset: int | Int[Array, ""] = 0,
    base: float = 10000.0,
    rotary_size: int | None = None,
    interleaved: bool = False,
    tables: tuple[Array, Array] | None = None,
) -> Float[Array, "*batch t n h"]:
    r"""Queries or keys turned by angles that grow with the position.

    .. math::

        \begin{pmatrix} a' \\ b' \end{pmatrix} =
        \begin{pmatrix} \cos p\,\theta_i & -\sin p\,\theta_i \\
                        \sin p\,\theta_i & \cos p\,\theta_i \end{pmatrix}
        \begin{pmatrix} a \\ b \end{pmatrix}, \qquad \theta_i = \text{base}^{-2i/r}

    Apply it to query and key: their product then depends on the positions through their difference
    alone.

    Args:
        x: Queries or keys. Shape ``(*batch, t, n, h)``.
        positions: p, of each token. Broadcasts to ``(*batch, t)``. Default offset + 0, 1, ….
        offset: Position of the first token where ``positions`` is not given.
        base: Ratio of the slowest to the fastest turn, roughly.
        rotary_size: r, how many of the h features are turned, from the first on. Even. Default h.
        interleaved: Whether (a, b) are neighbors (features 2i, 2i + 1) rather than from the two
            halves (features i, i + r/2).
        tables: (cos, sin) of :func:`rotary_tables`, one row per position, ``(positions, r/2)``,
            to look ``positions`` up in, instead of ``base``.

    Returns:
        Turned x, its shape and dtype; norms of pairs are kept. Angles are computed in float32 at
        least. Positions beyond the tables read their last row.

    Raises:
        ValueError: If shapes disagree, ``rotary_size`` is odd or above h, or ``offset`` comes
            with ``positions``.
        TypeError: If ``x`` is not floating-point or ``positions`` or ``offset`` not integers.

    Cost: 6·t·n·r FLOPs.

    Examples:
        >>> x = jnp.ones((2, 1, 2))
        >>> print(np.round(attention.rotary_embedding(x)[:, 0].tolist(), 4))
        [[ 1.      1.    ]
         [-0.3012  1.3818]]

    References:
        :cite:t:`su2021roformer`, section 3.2.
    """
    x = floating_array("x", x)
    if x.ndim < 3:
        raise value_error("x", "must have shape (*batch, t, n, h)", x)
    *batch, t, _, h = x.shape
    r = _rotary_size(h if rotary_size is None else rotary_size, h)
    if positions is None:
        offset = _integers("offset", offset, (), "()")
    elif isinstance(offset, int) and offset == 0:
        positions = _integers("positions", positions, (*batch, t), "(*batch, t)")
    else:
        raise value_error(
            "offset", "must be 0 where `positions` are given", offset, "Add it to them."
        )
    if tables is not None:
        tables = _table(tables[0], r), _table(tables[1], r)
    return _turned(x, positions, offset, tables, r, base, interleaved=interleaved)


@functools.partial(jax.jit, static_argnames=("r", "base", "interleaved"), inline=True)
def _turned(
    x: Array,
    positions: Array | None,
    offset: int | Array,
    tables: tuple[Array, Array] | None,
    r: int,
    base: float,
    *,
    interleaved: bool,
) -> Array:
    """X with its first r features turned; one program where eager."""
    if positions is None:
        positions = offset + jnp.arange(x.shape[-3], dtype=jnp.int32)
    wide = x.dtype if x.dtype.itemsize >= 4 else jnp.dtype(jnp.float32)
    if tables is None:
        cos, sin = _turns(positions, r, base, wide)
    else:
        cos, sin = (table[positions] for table in tables)
    # Positions that do not depend on the batch stay small; the head axis follows them.
    lead = x.ndim - 2 - positions.ndim
    cos, sin = (
        a.astype(wide).reshape((1,) * lead + (*positions.shape, 1, r // 2)) for a in (cos, sin)
    )
    turned, rest = x[..., :r].astype(cos.dtype), x[..., r:]
    if interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
        pair = jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=-1)
    else:
        a, b = turned[..., : r // 2], turned[..., r // 2 :]
        pair = jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)
    return jnp.concatenate([pair.reshape(turned.shape).astype(x.dtype), rest], axis=-1)


@at("attention.rotary_tables")
def rotary_tables(
    positions: Int[Array, "*shape"], size: int, *, base: float = 10000.0
) -> tuple[Float[Array, "*shape half"], Float[Array, "*shape half"]]:
    r"""Cosines and sines of every position's angles, to compute once and look up.

    .. math::

        \cos p\, \theta_i,\; \sin p\, \theta_i, \qquad \theta_i = \text{base}^{-2i/r}

    Args:
        positions: p, any shape, integers.
        size: r, the number of features that are turned, even.
        base: Ratio of the slowest to the fastest turn, roughly.

    Returns:
        (cos, sin), each ``(*positions.shape, r/2)``, in float32, or float64 where it is enabled.

    Raises:
        ValueError: If ``size`` is odd or below 2.
        TypeError: If ``positions`` are not integers or ``size`` no Python integer.

    Cost: 2·r FLOPs per position.

    Examples:
        >>> cos, sin = attention.rotary_tables(jnp.arange(100), 4)
        >>> print(cos[0], sin[0])
        [1. 1.] [0. 0.]

    References:
        :cite:t:`su2021roformer`, section 3.2.2.
    """
    r = _rotary_size(size, None)
    positions = _integers("positions", positions, None, "")
    return _turns(positions, r, base, dtypes.canonicalize_dtype(float))


def _turns(positions: Array, r: int, base: float, dtype: jnp.dtype) -> tuple[Array, Array]:
    theta = np.asarray(base ** (-2 * np.arange(r // 2) / r), dtype)
    angles = positions[..., None].astype(dtype) * theta.reshape((1,) * positions.ndim + (-1,))
    return jnp.cos(angles), jnp.sin(angles)


@result
class Alibi:
    """Slopes, one per head, that can be passed as ``score_fn``.

    Attributes:
        slopes: m, ``(n,)``.
    """

    slopes: Float[Array, " n"]

    def __call__(self, score: Scalar, batch: Array, head: Array, query: Array, key: Array) -> Array:
        """The score less slope times distance."""
        del batch
        m = self.slopes[head].astype(score.dtype)
        return score - m * jnp.abs(query - key).astype(score.dtype)


@at("attention.alibi")
def alibi(num_heads: int, *, dtype: jnp.dtype | None = None) -> Alibi:
    r"""Scores that fall with distance, at a slope for each head, for ``score_fn``.

    .. math::

        s_{ij} \mapsto s_{ij} - m_h |i - j|, \qquad m_h = 2^{-8h/n}, \; h = 1, \dots, n

    If the number of heads is no power of two, the slopes of the next lower power come first,
    followed by every other slope of the next higher.

    Args:
        num_heads: n.
        dtype: Type of the slopes. Default float32, or float64 where it is enabled.

    Returns:
        :class:`Alibi`, a pytree that is its own ``score_fn``, so slopes can be learned; no T × S
        array is made. i includes the ``query_offset`` of the call.

    Raises:
        ValueError: If ``num_heads`` is below 1.
        TypeError: If ``num_heads`` is no Python integer.

    Cost: O(num_heads).

    Examples:
        >>> print(attention.alibi(3).slopes)
        [0.0625     0.00390625 0.25      ]
        >>> x = jnp.ones((4, 3, 2))
        >>> y = attention.dot_product_attention(x, x, x, score_fn=attention.alibi(3))

    References:
        :cite:t:`press2021alibi`, section 3.
    """
    num_heads = positive_integer("num_heads", num_heads)
    low = 2 ** int(math.log2(num_heads))

    def slopes(n: int) -> np.ndarray:
        return 2.0 ** (-8 * np.arange(1, n + 1) / n)

    m = np.concatenate([slopes(low), slopes(2 * low)[::2][: num_heads - low]])
    return Alibi(jnp.asarray(m, float if dtype is None else dtype))


def _rotary_size(value: int, limit: int | None) -> int:
    name = "size" if limit is None else "rotary_size"
    r = positive_integer(name, value, minimum=2)
    if r % 2 or (limit is not None and r > limit):
        most = "" if limit is None else f" and at most {limit}"
        raise value_error(name, f"must be even{most}", value)
    return r


def _integers(argument: str, value: object, shape: tuple[int, ...] | None, name: str) -> Array:
    number = isinstance(value, int) and not isinstance(value, bool)
    array = jax.device_put(np.asarray(value, np.int32)) if number else jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise type_error(argument, "must hold integers", array)
    if shape is not None and (
        array.ndim > len(shape)
        or any(a not in (1, b) for a, b in zip(array.shape[::-1], shape[::-1], strict=False))
    ):
        raise value_error(argument, f"must broadcast to {name} {shape}", array)
    return array.astype(jnp.int32)


def _table(table: object, r: int) -> Array:
    array = floating_array("tables", table)
    if array.ndim != 2 or array.shape[1] != r // 2:
        raise value_error("tables", f"must have shape (positions, {r // 2})", array)
    return array
