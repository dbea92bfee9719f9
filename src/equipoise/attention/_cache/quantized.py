r"""Vectors in 8 bits: one scale for each, and numbers that are integers or short floats.

.. math::

    s = \max_c |x_c| / m, \qquad \hat x_c = s \cdot \operatorname{round}(x_c / s)

with m the largest number that the 8 bits hold. An integer is off by half a step at most,
:math:`|\hat x_c - x_c| \le s / 2`, a short float by a half of its last bit, or of the smallest
number's that has a sign and no exponent.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from equipoise._types import Array
from equipoise.attention._kernel.problem import wide


def is_short(dtype: DTypeLike) -> bool:
    """Whether numbers of this dtype want a scale beside them: integers and floats of 8 bits."""
    return jnp.dtype(dtype) == jnp.int8 or (
        jnp.issubdtype(dtype, jnp.floating) and jnp.dtype(dtype).itemsize == 1
    )


def quantized(x: Array, dtype: jnp.dtype) -> tuple[Array, Array]:
    """Vectors along the last axis in 8 bits, and the scale of each, float32.

    One that is not finite has a scale that is not, and so comes back. Rounding has no slope, and a
    scale alone would have that of the largest number: there is no gradient.
    """
    x = lax.stop_gradient(x.astype(wide(x.dtype)))
    scale = jnp.max(jnp.abs(x), axis=-1) / np.asarray(_largest(dtype), x.dtype)
    scale = scale.astype(jnp.float32)
    divisor = jnp.where(scale > 0, scale, 1).astype(x.dtype)
    steps = x / divisor[..., None]
    if dtype == jnp.int8:
        steps = jnp.clip(jnp.round(steps), -127, 127)
    return steps.astype(dtype), scale


def restored(short: Array, scale: Array | None, dtype: jnp.dtype) -> Array:
    """The vectors in a wide dtype."""
    found = short.astype(dtype)
    return found if scale is None else found * scale.astype(dtype)[..., None]


def _largest(dtype: jnp.dtype) -> float:
    return 127.0 if dtype == jnp.int8 else float(jnp.finfo(dtype).max)  # type: ignore[no-untyped-call]
