"""Programs of float32 hold nothing of float64, where that is on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import attention

X = np.ones((1, 24, 4, 8), np.float32)
OPTIONS = {
    "plain": {},
    "masked": {"is_causal": True, "segment_ids": np.arange(24) // 7},
    "scores": {"scale": 0.3, "logits_soft_cap": 2.0, "sinks": np.ones(4, np.float32)},
    "functions": {"score_fn": lambda s, b, h, i, j: 2 * s, "mask_fn": lambda b, h, i, j: i != j},
    "bias and dropout": {
        "bias": np.ones((1, 24), np.float32),
        "dropout_rate": 0.1,
        "dropout_key": jax.random.key(0),
    },
}
LAYER = attention.multi_head_attention(8, 2, rotary_base=1e4, use_bias=True)


def of_layer(x):
    params = LAYER.init(jax.random.key(0))
    _, y = LAYER.step(params, LAYER.init_cache(4), x[0, :1, 0])
    return LAYER.apply(params, x[0, :, 0], is_causal=True), y


FUNCTIONS = {
    **{
        f"{f.__name__} {name}": lambda x, f=f, options=options: f(
            x, x, x, return_residual=True, **options
        )
        for f in (attention.dot_product_attention, attention.reference_attention)
        for name, options in OPTIONS.items()
    },
    "linear": lambda x: attention.linear_attention(x, x, x, is_causal=True),
    "layer": of_layer,
}


def float64s(program):
    """The operations that read or write float64, in a program and those inside of it."""
    for equation in program.eqns:
        for atom in (*equation.invars, *equation.outvars):
            if getattr(atom.aval, "dtype", None) == np.float64:
                yield equation
        inner = (getattr(x, "jaxpr", x) for x in jax.tree.leaves(equation.params))
        for x in inner:
            if hasattr(x, "eqns"):
                yield from float64s(x)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_attention_of_float32_has_no_float64(name):
    def slope(x):
        return jax.grad(lambda x: sum(map(jnp.sum, jax.tree.leaves(FUNCTIONS[name](x)))))(x)

    assert list(float64s(jax.make_jaxpr(slope)(X).jaxpr)) == []
