"""Row statistics equal those of the whole matrix of weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import attention
from tests.compiled import compiled

_ROWS, _KEYS = jnp.array([[11, 6], [9, 0]], jnp.int32)
OPTIONS = {
    "full": {},
    "causal": {"mask": attention.causal()},
    "window": {"mask": attention.sliding_window((3, 1)), "query_offset": 2},
    "capped": {"logits_soft_cap": 1.5},
    "segments": {"mask": attention.segments(np.arange(11) // 4, np.arange(9) // 3)},
    "sinks": {"sinks": np.array([0.5, -1.0, 0.0, 2.0]), "mask": attention.causal()},
    "slopes": {"score_fn": attention.alibi(4), "mask": attention.prefix(7)},
    "lengths": {
        "mask": attention.from_function(lambda b, h, q, k: (q < _ROWS[b]) & (k < _KEYS[b]))
    },
}


def arrays(rng, batch=(2,), t=11, s=9, n=4, k=2, h=5):
    return (
        jnp.asarray(rng.normal(size=(*batch, t, n, h))),
        jnp.asarray(rng.normal(size=(*batch, s, k, h))),
    )


def weights_by_definition(query, key, bias=None, **options):
    """α (b, n, t, s) and the log-sum-exp (b, n, t), sinks included, in NumPy."""
    sinks = options.pop("sinks", None)
    define = compiled(attention.reference_attention)
    _, scores = define(query, key, key, bias, return_scores=True, **options)
    scores = np.asarray(scores)
    if sinks is not None:
        sink = np.broadcast_to(sinks[:, None, None], (*scores.shape[:-1], 1))
        scores = np.concatenate([scores, sink], -1)
    with np.errstate(divide="ignore"):
        lse = np.log(np.exp(scores).sum(-1))
    alpha = np.where(np.isneginf(lse)[..., None], 0, np.exp(scores - np.nan_to_num(lse)[..., None]))
    return alpha, lse, sinks is not None


@pytest.mark.parametrize(
    ("name", "block_size"), [*((name, 4) for name in OPTIONS), ("causal", None), ("sinks", 1)]
)
def test_attention_statistics_match_the_matrix(rng, name, block_size):
    options = OPTIONS[name]
    query, key = arrays(rng)
    bias = jnp.asarray(rng.normal(size=(2, 1, 11, 9))) if name == "causal" else None
    found = jax.jit(
        functools.partial(
            attention.attention_statistics,
            top_k=3,
            block=((2, 7), (1, 4)),
            block_size=block_size,
            **options,
        )
    )(query, key, bias)
    alpha, lse, has_sink = weights_by_definition(query, key, bias, **options)
    entropy = -np.sum(alpha * np.log(np.where(alpha > 0, alpha, 1)), -1)
    alpha = alpha[..., :-1] if has_sink else alpha
    atol = 1e-13  # 11 terms of order one in float64
    np.testing.assert_allclose(found.entropy, entropy.swapaxes(1, 2), atol=atol)
    np.testing.assert_allclose(found.log_sum_exp, lse.swapaxes(1, 2), atol=atol)
    np.testing.assert_allclose(found.key_mass, alpha.sum(2).swapaxes(1, 2), atol=atol)
    np.testing.assert_allclose(found.block, alpha[:, :, 2:7, 1:4], atol=atol)
    order = np.argsort(-alpha, axis=-1, kind="stable")[..., :3]
    top = np.take_along_axis(alpha, order, -1)
    np.testing.assert_allclose(found.top_weights, top.swapaxes(1, 2), atol=atol)
    expected = np.where(top > 0, order, -1).swapaxes(1, 2)
    np.testing.assert_array_equal(found.top_indices, expected)


def test_attention_statistics_uniform_weights_have_the_entropy_of_a_count():
    x = jnp.zeros((6, 1, 2))
    found = attention.attention_statistics(x, x, mask=attention.causal())
    np.testing.assert_allclose(jnp.exp(found.entropy[:, 0]), np.arange(1, 7), rtol=1e-14)
    np.testing.assert_allclose(found.key_mass.sum(), 6, rtol=1e-14)


def test_attention_statistics_edge_row_that_reads_nothing(rng):
    query, key = arrays(rng, batch=(), n=2)
    mask = jnp.arange(11)[:, None] != 3

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def f(query):
        found = attention.attention_statistics(query, key, mask=mask, top_k=2)
        return found.entropy.sum() + found.top_weights.sum(), found

    (_, found), gradient = f(query)
    assert np.all(found.entropy[3] == 0)
    assert np.all(found.top_weights[3] == 0)
    assert np.all(found.top_indices[3] == -1)
    assert np.all(np.isneginf(found.log_sum_exp[3]))
    assert np.all(gradient[3] == 0)
    assert np.all(np.isfinite(gradient))


def test_attention_statistics_keep_memory_linear():
    def temporary(t, transform):
        x = jax.ShapeDtypeStruct((t, 2, 8), jnp.float32)

        def f(q, k):
            found = attention.attention_statistics(
                q, k, mask=attention.causal(), block_size=64, top_k=2
            )
            return found.entropy.sum() + found.key_mass.std()

        return jax.jit(transform(f)).lower(x, x).compile().memory_analysis().temp_size_in_bytes

    for transform in (lambda f: f, jax.grad):
        assert temporary(2048, transform) <= 2.2 * temporary(1024, transform)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (ValueError, {"top_k": 10}, "`top_k` must be at most the number of keys, 9"),
        (ValueError, {"top_k": 0}, "`top_k` must be at least 1"),
        (TypeError, {"top_k": 1.0}, "`top_k` must be a Python integer"),
        (ValueError, {"block": ((0, 12), (0, 3))}, "`block` must be two ranges"),
        (ValueError, {"block": ((3, 3), (0, 3))}, "`block` must be two ranges"),
        (TypeError, {"mask": np.ones((11, 9))}, "`mask` must be boolean"),
        (ValueError, {"bias": np.ones((10, 9))}, "`bias` must broadcast"),
    ],
)
def test_attention_statistics_reject_wrong_arguments(rng, kind, options, message):
    with pytest.raises(kind, match=message):
        attention.attention_statistics(*arrays(rng), **options)
