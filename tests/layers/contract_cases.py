import jax
import jax.numpy as jnp

from equipoise import layers
from tests.contract import Case, Static


def applied(layer, width=4, length=5):
    def arrays():
        params = layer.init(jax.random.key(1), jnp.float64)
        return params, jax.random.normal(jax.random.key(2), (length, width), jnp.float64)

    return Case(layer.apply, arrays)


CASES: dict = {
    "Layer": Static("functions and shapes, no arrays; tests/layers/test_layer.py holds it"),
    "elman_rnn": applied(layers.elman_rnn(4)),
    "gru": applied(layers.gru(4)),
    "linear_attention": applied(layers.linear_attention(4, num_heads=2, is_causal=True)),
    "convolution": applied(layers.convolution(4, kernel_size=3)),
    "feed_forward": applied(layers.feed_forward(4)),
    "layer_norm": applied(layers.layer_norm(4)),
    "transformer_block": applied(layers.transformer_block(4, num_heads=2)),
    "stack": applied(layers.stack(layers.transformer_block(4, num_heads=2), 2)),
}
