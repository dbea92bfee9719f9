"""One attention problem in normal form: four-dimensional arrays, options as arrays or masks."""

from typing import Any

import jax.numpy as jnp

from equipoise._types import result, static_field
from equipoise.attention._functions import Hoisted


def wide(dtype: Any) -> Any:
    """The dtype that sums of this dtype are taken in: float32 or wider."""
    return dtype if jnp.dtype(dtype).itemsize >= 4 else jnp.dtype(jnp.float32)


@result
class Problem:
    """Everything that decides the weights, in the layout that all algorithms share.

    Attributes:
        query: q, shape (b, t, n, h): n / k = g query heads in a row read the same key head.
        key: k, shape (b, s, k, h).
        value: v, shape (b, s, k, e).
        scale: c, a scalar.
        offset: Position of the first query, shape (b or 1,), or a Python integer.
        bias: Added to the scores, shape (b or 1, n or 1, t or 1, s or 1), or None.
        allowed: Boolean array of such a shape, or None.
        mask: A mask value, or None.
        captured: The arrays that the score function captured.
        kept: Random words of each row (b, n, t) and of each key (s,) for dropout, or None.
        soft_cap: The bound on the scores, a scalar, or None.
        sinks: A logit for each query head, (n,), or None.
        score_fn: The score function, or None.
        dropout_rate: The probability that a weight is dropped.
        static_offset: The offset where it is known while tracing, otherwise None.
        static_scale: The scale likewise.
    """

    query: Any
    key: Any
    value: Any
    scale: Any
    offset: Any
    bias: Any
    allowed: Any
    mask: Any
    captured: tuple[Any, ...]
    kept: Any
    soft_cap: Any
    sinks: Any
    score_fn: Hoisted | None = static_field()
    dropout_rate: float = static_field()
    static_offset: int | None = static_field()
    static_scale: float | None = static_field()

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """(b, t, s, k, g)."""
        b, t, n, _ = self.query.shape
        s, k = self.key.shape[1:3]
        return b, t, s, k, n // k

    @property
    def dtype(self) -> Any:
        """The dtype of scores, sums and weights: at least float32."""
        return wide(self.query.dtype)
