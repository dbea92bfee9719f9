"""Rotary embedding turns pairs; ALiBi lowers scores with distance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import attention
from tests.compiled import compiled
from tests.oracles import sequence

EPS = np.finfo(np.float64).eps
rotary_embedding = compiled(attention.rotary_embedding)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("size", [None, 4])
def test_rotary_embedding_matches_complex_rotation(rng, interleaved, size):
    x = rng.normal(size=(6, 2, 8))
    positions = np.array([0, 3, 1, 50, 7, 1000])
    y = rotary_embedding(x, positions, base=500.0, rotary_size=size, interleaved=interleaved)
    expected = sequence.rotary(x, positions, 500.0, size or 8, interleaved=interleaved)
    # Angles up to 1000 carry their own rounding.
    np.testing.assert_allclose(y, expected, atol=1000 * 8 * EPS)


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_embedding_keeps_norms_and_sees_only_differences(rng, interleaved):
    q, k = rng.normal(size=(2, 2, 9, 3, 6))

    def products(offset):
        turned = (
            rotary_embedding(jnp.asarray(x), offset=offset, interleaved=interleaved) for x in (q, k)
        )
        return jnp.einsum("btnh,bsnh->bnts", *turned)

    np.testing.assert_allclose(products(0), products(41), atol=50 * 6 * 16 * EPS)
    y = rotary_embedding(q, interleaved=interleaved)
    np.testing.assert_allclose(jnp.linalg.norm(y, axis=-1), np.linalg.norm(q, axis=-1), rtol=1e-14)


def test_rotary_embedding_takes_positions_of_each_batch_entry_and_tables(rng):
    x = rng.normal(size=(2, 5, 3, 4))
    positions = rng.integers(0, 20, size=(2, 5))
    y = rotary_embedding(x, positions)
    for b in range(2):
        np.testing.assert_array_equal(y[b], rotary_embedding(x[b], positions[b]))
    tables = attention.rotary_tables(jnp.arange(20), 4)
    np.testing.assert_array_equal(rotary_embedding(x, positions, tables=tables), y)
    np.testing.assert_array_equal(
        rotary_embedding(x[:1], jnp.array([25]), tables=tables),
        rotary_embedding(x[:1], jnp.array([19]), tables=tables),
    )


def test_rotary_embedding_offset_continues_the_sequence(rng):
    x = rng.normal(size=(7, 1, 4))
    whole = rotary_embedding(x)
    step = jax.jit(lambda x, offset: attention.rotary_embedding(x, offset=offset))
    np.testing.assert_allclose(step(x[5:], 5), whole[5:], rtol=1e-13)


def test_rotary_embedding_half_precision_computes_angles_in_single():
    x = jnp.ones((3000, 1, 2), jnp.bfloat16)
    y = rotary_embedding(x)
    assert y.dtype == jnp.bfloat16
    exact = np.cos(np.arange(3000.0)) - np.sin(np.arange(3000.0))
    # bfloat16 positions would be off by 8 radians; one rounding of the result remains.
    np.testing.assert_allclose(y[:, 0, 0].astype(float), exact, atol=1.5 * 2.0**-8)


@pytest.mark.parametrize(
    ("kind", "call", "message"),
    [
        (ValueError, lambda x: attention.rotary_embedding(x[0]), "`x` must have shape"),
        (
            ValueError,
            lambda x: attention.rotary_embedding(x, rotary_size=3),
            "`rotary_size` must be even",
        ),
        (ValueError, lambda x: attention.rotary_embedding(x, rotary_size=6), "at most 4"),
        (ValueError, lambda x: attention.rotary_embedding(x, jnp.arange(3)), "`positions` must"),
        (
            ValueError,
            lambda x: attention.rotary_embedding(x, jnp.arange(2), offset=1),
            "`offset` must be 0",
        ),
        (
            ValueError,
            lambda x: attention.rotary_embedding(x, tables=(jnp.ones((5, 4)),) * 2),
            r"`tables` must have shape \(positions, 2\)",
        ),
        (TypeError, lambda x: attention.rotary_embedding(x.astype(int)), "`x` must be a float"),
        (
            TypeError,
            lambda x: attention.rotary_embedding(x, jnp.ones(2)),
            "`positions` must hold integers",
        ),
        (TypeError, lambda x: attention.rotary_embedding(x, offset=0.5), "`offset` must"),
        (ValueError, lambda x: attention.rotary_tables(jnp.arange(2), 5), "`size` must be even"),
        (TypeError, lambda x: attention.rotary_tables(jnp.ones(2), 4), "`positions` must hold"),
        (TypeError, lambda x: attention.rotary_tables(jnp.arange(2), 4.0), "`size` must be a Pyt"),
        (ValueError, lambda x: attention.alibi(0), "`num_heads` must be at least 1"),
        (TypeError, lambda x: attention.alibi(2.0), "`num_heads` must be a Python integer"),
    ],
)
def test_position_rejects_wrong_arguments(kind, call, message):
    with pytest.raises(kind, match=message):
        call(jnp.ones((2, 2, 4)))


@pytest.mark.parametrize("n", [1, 2, 8, 16])
def test_alibi_slopes_are_geometric_for_powers_of_two(n):
    slopes = attention.alibi(n).slopes
    np.testing.assert_allclose(slopes, 2.0 ** (-8 * np.arange(1, n + 1) / n), rtol=4 * EPS)


def test_alibi_slopes_of_other_numbers_interleave_the_next_power():
    slopes = attention.alibi(12).slopes
    np.testing.assert_array_equal(slopes[:8], attention.alibi(8).slopes)
    np.testing.assert_array_equal(slopes[8:], attention.alibi(16).slopes[::2][:4])
    assert attention.alibi(3, dtype=jnp.float32).slopes.dtype == jnp.float32
