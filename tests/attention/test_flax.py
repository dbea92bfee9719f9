"""The plug-in point of flax takes this library's attention."""

import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np

from equipoise import attention


def plugged(query, key, value, *, mask, is_causal=False, **unused):
    """What flax passes beyond the arrays is about its own dropout and module."""
    del unused
    mask = None if mask is None else mask.astype(bool)
    return attention.dot_product_attention(query, key, value, mask=mask, is_causal=is_causal)


def test_dot_product_attention_plugs_into_flax_multi_head_attention():
    def layer(**options):
        return flax.nnx.MultiHeadAttention(
            num_heads=2,
            in_features=6,
            decode=False,
            rngs=flax.nnx.Rngs(0),
            dtype=jnp.float32,
            **options,
        )

    x = jax.random.normal(jax.random.key(0), (3, 5, 6), jnp.float32)
    mask = flax.nnx.make_causal_mask(x[..., 0])
    ours, theirs = layer(attention_fn=plugged)(x, mask=mask), layer()(x, mask=mask)
    # float32 rounding of products over six features, twice.
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
