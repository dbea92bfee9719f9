"""The plug-in point of flax takes this library's attention as it is."""

import functools

import flax.linen
import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import attention

X = np.random.default_rng(0).normal(size=(3, 5, 6)).astype(np.float32)
CAUSAL = np.tril(np.ones((3, 1, 5, 5), np.float32))


def layer(**options):
    return flax.nnx.MultiHeadAttention(
        num_heads=2,
        in_features=6,
        decode=False,
        rngs=flax.nnx.Rngs(0),
        dtype=jnp.float32,
        **options,
    )


@pytest.mark.parametrize("mask", [None, CAUSAL, CAUSAL.astype(bool)], ids=["none", "float", "bool"])
def test_flax_attention_fn_is_taken_as_it_is(mask):
    ours, theirs = layer(attention_fn=attention.flax_attention_fn), layer()
    # float32 rounding of products over six features, twice.
    np.testing.assert_allclose(ours(X, mask=mask), theirs(X, mask=mask), rtol=1e-5, atol=1e-5)


def test_flax_attention_fn_is_causal_as_newer_versions_ask():
    x = X[:, :, None]
    found, wanted = (
        attention.flax_attention_fn(x, x, x, **options)
        for options in ({"is_causal": True}, {"mask": CAUSAL})
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


def test_flax_attention_fn_is_taken_by_linen():
    def made(**options):
        return flax.linen.MultiHeadDotProductAttention(num_heads=2, **options)

    ours, theirs = made(attention_fn=attention.flax_attention_fn), made()
    params = theirs.init(jax.random.key(0), X)
    found, wanted = (x.apply(params, X, mask=CAUSAL) for x in (ours, theirs))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    dropping = made(attention_fn=attention.flax_attention_fn, dropout_rate=0.5)
    rngs = {"dropout": jax.random.key(0)}
    dropped = dropping.apply(params, X, mask=CAUSAL, deterministic=False, rngs=rngs)
    assert not np.allclose(dropped, found)


def test_flax_attention_fn_drops_by_the_layers_key_and_binds_options():
    local = functools.partial(attention.flax_attention_fn, local_window_size=(1, 0))
    dropping = layer(attention_fn=local, dropout_rate=0.5, keep_rngs=True)
    first, second = (np.asarray(dropping(X, deterministic=False)) for _ in range(2))
    assert not np.allclose(first, second)
    still = np.asarray(dropping(X, deterministic=True))
    banded = CAUSAL.astype(bool) & ~np.tril(np.ones((5, 5), bool), -2)
    np.testing.assert_allclose(still, layer()(X, mask=banded), rtol=1e-5, atol=1e-5)


def test_flax_attention_fn_rejects_what_it_cannot_do():
    for options, match in (
        ({"precision": jax.lax.Precision.HIGHEST}, "`precision` must be None"),
        ({"module": object()}, "attention_statistics"),
        ({"dropout_rate": 0.1}, "`dropout_key` must be"),
    ):
        with pytest.raises(ValueError, match=match):
            attention.flax_attention_fn(X[:, :, None], X[:, :, None], X[:, :, None], **options)
