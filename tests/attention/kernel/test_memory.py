"""Compiled temporary memory: within fixed bounds at long lengths, and linear in the length."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import attention

N, H = 4, 64
MEBIBYTE = 2**20


def functions(length, **options):
    def f(q, k, v):
        return attention.dot_product_attention(q, k, v, **options)

    def loss(q, k, v):
        return jnp.sum(jnp.square(f(q, k, v)))

    gradient = jax.grad(loss, (0, 1, 2))

    def hessian_vector(q, k, v):
        return jax.jvp(gradient, (q, k, v), (k, v, q))[1]

    def second(q, k, v):
        return jax.grad(lambda *a: sum(map(jnp.sum, gradient(*a))), (0, 1, 2))(q, k, v)

    def tangent(q, k, v):
        return jax.jvp(f, (q, k, v), (k, v, q))[1]

    return {
        "forward": f,
        "gradient": gradient,
        "hessian-vector": hessian_vector,
        "gradient of gradient": second,
        "jvp": tangent,
    }


def megabytes(function, length):
    x = jax.ShapeDtypeStruct((1, length, N, H), jnp.float32)
    memory = jax.jit(function).lower(x, x, x).compile().memory_analysis()
    return memory.temp_size_in_bytes / MEBIBYTE


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("forward", 6),
        ("gradient", 73),
        pytest.param("hessian-vector", 148, marks=pytest.mark.slow),
        pytest.param("gradient of gradient", 249, marks=pytest.mark.slow),
        ("jvp", 44),
    ],
)
def test_dot_product_attention_memory_at_long_length(name, bound):
    assert megabytes(functions(32768, is_causal=True)[name], 32768) <= bound


def options(kind, length):
    return {
        "window": {"local_window_size": 512},
        "bias": {"bias": jnp.asarray(np.zeros((N, 1, length), np.float32))},
        "mask function": {"mask_fn": lambda b, h, q, k: (q + k) % 7 != 0},
        "segments": {"segment_ids": jnp.asarray(np.arange(length) // 700)},
    }[kind]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["window", "bias", "mask function", "segments"])
@pytest.mark.parametrize("name", list(functions(1)))
def test_dot_product_attention_memory_is_linear(kind, name):
    at = [megabytes(functions(n, **options(kind, n))[name], n) for n in (8192, 16384)]
    assert at[1] <= 2.2 * at[0]
