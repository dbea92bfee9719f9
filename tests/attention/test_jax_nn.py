"""What JAX asks of its own ``dot_product_attention``, in half precision, asked of ours too."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import attention
from tests.thinned import slow_but, thinned

B, T, N, H = 2, 128, 4, 32


@pytest.fixture(autouse=True)
def _as_users_have_it():
    """``jax.nn`` itself mixes dtypes and ranks, which tests forbid here."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def normal(number, *shape, dtype=jnp.bfloat16):
    return jax.random.normal(jax.random.key(number), shape, dtype)


def assert_close(found, wanted, halves):
    """Within JAX's own bounds for its kernels: half of a hundredth for each rounded product."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=0.005 * halves, atol=0.005 * halves)


def pulled(attend, cotangent, *primals):
    """Values and cotangents, those of booleans and integers apart."""
    out, pull = jax.vjp(attend, *primals)
    found = pull(cotangent)
    return out, [x for x in jax.tree.leaves(found) if x.dtype != jax.dtypes.float0]


@pytest.mark.parametrize(
    ("group", "dtype"), thinned([1, 2, 4], [jnp.bfloat16, jnp.float16, jnp.float32])
)
@pytest.mark.parametrize("mapped", [False, True])
def test_dot_product_attention_of_groups_is_that_of_jax_nn(group, dtype, mapped):
    """With what is None given by position, and an axis that ``vmap`` takes away."""
    query, cotangent = (normal(i, B, T, N, H, dtype=dtype) for i in (0, 3))
    key, value = (normal(i, B, T, N // group, H, dtype=dtype) for i in (1, 2))
    ours = functools.partial(attention.dot_product_attention, implementation="xla")
    if mapped:
        ours = jax.vmap(ours, in_axes=(0, 0, 0, None, None))
    primals = query, key, value, None, None
    found = jax.jit(functools.partial(pulled, ours))(cotangent, *primals)
    peer = functools.partial(pulled, jax.nn.dot_product_attention)
    # XLA on a CPU has no product of float16 as jax.nn asks for it.
    as_peer = lambda x: x.astype(jnp.float32) if dtype == jnp.float16 else x  # noqa: E731
    wanted = jax.jit(peer)(*jax.tree.map(as_peer, (cotangent, *primals)))
    assert_close(found, jax.tree.map(lambda x: x.astype(dtype), wanted), 2)


LENGTHS = {
    "query_seq_lengths": jnp.array([T // 2, T // 4], jnp.int32),
    "key_value_seq_lengths": jnp.array([T // 4, T // 2], jnp.int32),
}
LOWER = jnp.tril(jnp.ones((T, T), bool))
CHECKERS = ((jnp.arange(T)[:, None] + jnp.arange(T)[None]) % 2 == 0)[None, None]
# Arrays for bias and mask, and options.
REQUESTS = {
    "bias": (normal(4, 1, N, T, T), None, {}),
    "bias, causal": (normal(4, 1, N, T, T), None, {"is_causal": True}),
    "bias of rows": (normal(4, B, 1, T, 1), None, LENGTHS),
    "causal": (None, None, {"is_causal": True}),
    "lengths": (None, None, LENGTHS),
    "causal, lengths": (None, None, {"is_causal": True, **LENGTHS}),
    "array": (None, LOWER[None, None], {}),
    "array, causal": (None, CHECKERS, {"is_causal": True}),
    "array, lengths": (None, LOWER[None, None], LENGTHS),
    "array of entries": (None, jnp.stack([LOWER, LOWER.T])[:, None], {}),
    "array of keys": (None, (jnp.arange(T) % 3 > 0)[None, None], {}),
    "array of heads": (None, jnp.ones((N, 1, 1), bool), {}),
    "array and bias": (normal(4, B, N, T, T), CHECKERS, {}),
    "window": (None, None, {"local_window_size": (3, 0)}),
    "window, causal": (None, None, {"local_window_size": (3, 2), "is_causal": True}),
    "window of both sides": (None, None, {"local_window_size": 7}),
    "scale": (None, None, {"scale": 0.3}),
}


@pytest.mark.parametrize(
    "name", slow_but(REQUESTS, "bias, causal", "causal, lengths", "array, causal", "array of keys")
)
def test_dot_product_attention_of_masks_is_that_of_jax_nn(name):
    bias, mask, options = REQUESTS[name]
    qkv, cotangent = [normal(i, B, T, N, H) for i in range(3)], normal(3, B, T, N, H)

    def attend(function, query, key, value, bias, mask, lengths):
        return function(query, key, value, bias, mask, **options | lengths)

    lengths = {k: v for k, v in options.items() if k.endswith("lengths")}
    found, wanted = (
        jax.jit(functools.partial(pulled, functools.partial(attend, f)))(
            cotangent, *qkv, bias, mask, lengths
        )
        for f in (attention.dot_product_attention, jax.nn.dot_product_attention)
    )
    assert_close(found, wanted, 4)


@pytest.mark.parametrize("batch", [1, pytest.param(16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("mapped", [False, True])
def test_dot_product_attention_gradient_by_a_bias_is_that_of_jax_nn(batch, mapped):
    """Of one array that is query, key, value and cotangent, with a mask of fewer axes."""
    x, bias, mask = normal(0, batch, T, N, H), normal(1, batch, N, T, T), jnp.ones((1, 1, T), bool)

    def attend(function):
        run = lambda x, bias, mask: function(x, x, x, bias=bias, mask=mask)  # noqa: E731
        return jax.vmap(run, in_axes=(0, 0, None)) if mapped else run

    found, wanted = (
        jax.jit(functools.partial(pulled, attend(f)))(x, x, bias, mask)
        for f in (attention.dot_product_attention, jax.nn.dot_product_attention)
    )
    assert_close(found, wanted, 8)


@pytest.mark.parametrize("name", ["causal", pytest.param("bias", marks=pytest.mark.slow)])
def test_dot_product_attention_residual_is_that_of_jax_nn_before_it_is_rounded(name):
    """In the dtype of sums, where ``jax.nn`` has that of the key; and without a batch axis."""
    bias, mask, options = REQUESTS[name]
    query, key, value = (normal(i, T, N, H) for i in range(3))
    arguments = query, key, value, bias, mask
    (y, lse), (y_peer, lse_peer) = (
        jax.jit(functools.partial(f, return_residual=True, **options))(*arguments)
        for f in (attention.dot_product_attention, jax.nn.dot_product_attention)
    )
    assert (lse.dtype, lse_peer.dtype) == (jnp.float32, jnp.bfloat16)
    assert lse.shape == lse_peer.shape == (T, N)
    assert_close((y, lse.astype(jnp.bfloat16)), (y_peer, lse_peer), 2)
    # The scores of jax.nn are rounded once, and their sum again.
    np.testing.assert_allclose(lse, lse_peer.astype(jnp.float32), rtol=2**-7, atol=2**-6)
