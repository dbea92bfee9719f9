"""Linear attention is a recurrent network, and the masked parallel form is the same function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from equipoise import attention
from tests.oracles import sequence

EPS = np.finfo(np.float64).eps
FORMS = ["parallel", "recurrent"]
linear = jax.jit(
    attention.linear_attention, static_argnames=("feature_map", "is_causal", "form", "chunk_size")
)


def arrays(rng, t, s, n=4, k=2, h=3, e=5):
    shapes = (t, n, h), (s, k, h), (s, k, e)
    return tuple(jnp.asarray(rng.normal(size=shape)) for shape in shapes)


def assert_equal_but_rounding(actual, desired, length):
    # Positive weights: sums of `length` terms and a quotient, no cancellation but in the values.
    atol = 16 * length * EPS * np.abs(desired).max(initial=1.0)
    np.testing.assert_allclose(actual, desired, rtol=0, atol=atol)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("t", "chunk"), [(1, 64), (7, 3), (8, 4), (9, 1), (13, 64)])
def test_linear_attention_causal_matches_definition(rng, form, t, chunk):
    q, k, v = arrays(rng, t, t)
    mask = np.arange(t) % 3 != 1
    y = linear(q, k, v, jnp.asarray(mask), is_causal=True, form=form, chunk_size=chunk)
    expected = sequence.linear_attention(*map(np.asarray, (q, k, v)), mask=mask, causal=True)
    assert_equal_but_rounding(y, expected, t)


def test_linear_attention_full_matches_definition(rng):
    q, k, v = arrays(rng, 5, 9)
    expected = sequence.linear_attention(*map(np.asarray, (q, k, v)))
    assert_equal_but_rounding(attention.linear_attention(q, k, v), expected, 9)


def test_linear_attention_forms_are_equal_with_batch_axes(rng):
    q, k, v = (jnp.asarray(rng.normal(size=(2, 3, 21, 2, 4))) for _ in range(3))
    parallel, recurrent = (
        linear(q, k, v, is_causal=True, form=form, chunk_size=8) for form in FORMS
    )
    assert_equal_but_rounding(parallel, recurrent, 21)


def test_linear_attention_forms_have_equal_gradients(rng):
    args = arrays(rng, 11, 11)

    def gradients(form):
        def loss(*args):
            y = attention.linear_attention(*args, is_causal=True, form=form, chunk_size=4)
            return jnp.sum(jnp.sin(y))

        return jax.jit(jax.grad(loss, (0, 1, 2)))(*args)

    for a, b in zip(*map(gradients, FORMS), strict=True):
        assert_equal_but_rounding(a, b, 11)


@pytest.mark.slow
def test_linear_attention_gradient_matches_finite_differences(rng):
    def f(q, k, v):
        return attention.linear_attention(q, k, v, is_causal=True, chunk_size=2)

    check_grads(jax.jit(f), arrays(rng, 3, 3, n=2, k=1, h=2, e=2), order=1)


def test_linear_attention_takes_any_feature_map(rng):
    q, k, v = arrays(rng, 6, 6, n=2)
    # φ(x) = (1, x): weights 1 + q·k, which the softmax of small scores approaches.
    q, k = 1e-4 * q, 1e-4 * k
    y = attention.linear_attention(
        q, k, v, feature_map=lambda x: jnp.concatenate([jnp.ones_like(x[..., :1]), x], -1)
    )
    scores = jnp.einsum("tkh,skh->kts", q, k)
    exact = jnp.einsum("kts,ske->tke", jax.nn.softmax(scores), v)
    # e^x - 1 - x < x² for scores of at most 1e-7.
    np.testing.assert_allclose(y, exact, atol=1e-12)


def test_linear_attention_edge_no_key_is_zero_with_zero_gradient(rng):
    q, k, v = arrays(rng, 4, 4)
    mask = jnp.array([False, False, True, True])

    def f(q, k, v):
        return attention.linear_attention(q, k, v, mask, is_causal=True)

    v = v.at[:2].set(jnp.nan)

    @jax.jit
    def value_and_gradients(*args):
        y, back = jax.vjp(f, *args)
        return y, *back(jnp.ones_like(y))

    y, dq, dk, dv = value_and_gradients(q, k, v)
    np.testing.assert_array_equal(y[:2], 0)
    np.testing.assert_array_equal(dq[:2], 0)
    np.testing.assert_array_equal(dk[:2], 0)
    np.testing.assert_array_equal(dv[:2], 0)
    assert np.all(np.isfinite(y))
    empty = linear(q[:0], k[:0], v[:0], is_causal=True)
    assert empty.shape == (0, 4, 5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_linear_attention_accumulates_in_single_precision(rng, dtype):
    q, k, v = (x.astype(dtype) for x in arrays(rng, 300, 300))
    y = linear(q, k, v, is_causal=True)
    assert y.dtype == dtype
    wide = linear(*(x.astype(jnp.float64) for x in (q, k, v)), is_causal=True)
    # Sums of 300 positive terms in float32, then one rounding to the dtype.
    bound = 300 * np.finfo(np.float32).eps + float(jnp.finfo(dtype).eps)
    assert np.max(np.abs(y.astype(jnp.float64) - wide)) <= bound * np.abs(v.astype(float)).max()


def test_linear_attention_memory_is_linear():
    def temporary(t):
        shapes = [jax.ShapeDtypeStruct((t, 2, 16), jnp.float32)] * 3
        f = jax.grad(lambda *a: attention.linear_attention(*a, is_causal=True).sum(), (0, 1, 2))
        return jax.jit(f).lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    assert temporary(4096) <= 2.2 * temporary(2048)


@pytest.mark.parametrize(
    ("kind", "shapes", "options", "message"),
    [
        (ValueError, [(4, 2), (4, 2), (4, 2)], {}, "`query` must have shape"),
        (ValueError, [(4, 2, 3), (4, 2, 2), (4, 2, 2)], {}, "`key` must have shape"),
        (ValueError, [(4, 2, 3), (4, 2, 3), (5, 2, 3)], {}, "`value` must have the lengths"),
        (ValueError, [(4, 3, 3), (4, 2, 3), (4, 2, 3)], {}, "multiple of the 2 heads"),
        (ValueError, [(4, 2, 3), (5, 2, 3), (5, 2, 3)], {"is_causal": True}, "`is_causal` needs"),
        (ValueError, [(4, 2, 3)] * 3, {"form": "fast"}, "`form` must be one of"),
        (ValueError, [(4, 2, 3)] * 3, {"chunk_size": 0}, "`chunk_size` must be at least 1"),
        (ValueError, [(4, 2, 3)] * 3, {"mask": np.ones(3, bool)}, "`mask` must broadcast"),
        (TypeError, [(4, 2, 3)] * 3, {"mask": np.ones(4)}, "`mask` must be boolean"),
    ],
)
def test_linear_attention_rejects_wrong_arguments(kind, shapes, options, message):
    with pytest.raises(kind, match=message):
        attention.linear_attention(*(jnp.ones(shape) for shape in shapes), **options)
    with pytest.raises(TypeError, match="`query` must be a floating"):
        attention.linear_attention(*(jnp.ones((4, 2, 3), int),) * 3)
