"""Exported with names for sizes, loaded, and called at several: equal to the direct call."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from equipoise import attention, cost

# One block or several of rows and of keys, whole or not.
SIZES = ({"b": 1, "t": 3, "s": 2}, {"b": 3, "t": 16, "s": 21}, {"b": 2, "t": 19, "s": 8})
BLOCKS = {"block_size": 8}


def attend(q, k, v, **options):
    out, lse = attention.dot_product_attention(q, k, v, return_residual=True, **BLOCKS, **options)
    return out, jnp.where(jnp.isneginf(lse), 0, lse)


def masked(q, k, v):
    """Blocks are chosen by values: of ids, lengths and a window; and a function has the rest."""
    ids = (jnp.arange(q.shape[1]) // 5, jnp.arange(k.shape[1]) // 4)
    mask = attention.segments(*ids) | attention.prefix(jnp.arange(q.shape[0]))
    return attend(
        q, k, v, mask=mask, is_causal=True, mask_fn=lambda b, h, i, j: (i + 2 * j) % 5 != b
    )


def biased(q, k, v):
    bias = jnp.sin(jnp.arange(k.shape[1], dtype=q.dtype))[None, None]
    lengths = jnp.arange(1, q.shape[0] + 1)
    return attend(
        q,
        k,
        v,
        bias=bias,
        key_value_seq_lengths=lengths,
        score_fn=lambda s, b, h, i, j: jnp.where(h == 1, s, -s),
    )


def boolean(q, k, v):
    mask = (jnp.arange(q.shape[1])[:, None] + jnp.arange(k.shape[1])[None]) % 3 != 0
    return attend(q, k, v, mask=mask[None], sinks=jnp.ones(q.shape[2], q.dtype))


def half(q, k, v):
    """What the vendor's kernels serve where sizes are numbers."""
    q, k, v = (x.astype(jnp.bfloat16) for x in (q, k, v))
    return attention.dot_product_attention(q, k, v, is_causal=True).astype(float)


def definition(q, k, v):
    return attention.reference_attention(q, k, v, is_causal=True)


def statistics(q, k, v):
    found = attention.attention_statistics(q, k, mask=attention.causal(), top_k=2, block_size=8)
    return found.entropy, found.key_mass, found.top_weights


def linear(q, k, v):
    return attention.linear_attention(q, k, v)


def linear_causal(q, k, v):
    """As many rows as keys."""
    return attention.linear_attention(q, q[:, :, ::2], q[:, :, ::2], is_causal=True, chunk_size=8)


def both(function):
    """Values and gradients."""

    def total(*arrays):
        return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(function(*arrays)))

    return lambda *arrays: (function(*arrays), jax.grad(total, (0, 1, 2))(*arrays))


def numbers(shape, sizes):
    return [sizes[n] if n in sizes else int(n) for n in shape.split(", ")]


@pytest.mark.parametrize(
    "function",
    [
        masked,
        statistics,
        *(pytest.param(f, marks=pytest.mark.slow) for f in (attend, biased, boolean, half)),
        *(pytest.param(f, marks=pytest.mark.slow) for f in (definition, linear, linear_causal)),
    ],
)
def test_exported_with_names_for_sizes_equals_the_direct_call(function):
    pytest.importorskip("flatbuffers", reason="JAX writes exported programs with it")
    shapes = "b, t, 4, 8", "b, s, 2, 8", "b, s, 2, 8"
    scope = export.SymbolicScope()
    asked = [jax.ShapeDtypeStruct(export.symbolic_shape(x, scope=scope), float) for x in shapes]
    run = jax.jit(both(function))
    loaded = export.deserialize(export.export(run)(*asked).serialize())
    rng = np.random.default_rng(0)
    for sizes in SIZES:
        arrays = [jnp.asarray(rng.normal(size=numbers(shape, sizes))) for shape in shapes]
        # The same sums in blocks of another size.
        eps = 2**-6 if function is half else 2**-40
        pairs = zip(*map(jax.tree.leaves, (loaded.call(*arrays), run(*arrays))), strict=True)
        for found, wanted in pairs:
            np.testing.assert_allclose(found, wanted, rtol=0, atol=eps)


def test_exported_statistics_come_back_as_such():
    pytest.importorskip("flatbuffers", reason="JAX writes exported programs with it")
    shape = export.symbolic_shape("t, 2, 4")
    run = jax.jit(attention.attention_statistics)
    program = export.export(run)(*[jax.ShapeDtypeStruct(shape, float)] * 2)
    x = jnp.eye(3, 8).reshape(3, 2, 4)
    found = export.deserialize(program.serialize()).call(x, x)
    assert isinstance(found, attention.AttentionStatistics)
    np.testing.assert_array_equal(found.top_indices, run(x, x).top_indices)


def test_analyze_counts_the_blocks_of_named_sizes():
    """In blocks of 8 each product is 2·t·s·8 in every head, for whole blocks exactly."""
    shapes = "f32[b,t,4,8]", "f32[b,s,2,8]", "f32[b,s,2,8]"
    found = cost.analyze(
        lambda q, k, v: attention.dot_product_attention(q, k, v, block_size=8), *shapes
    )
    assert not found.assumptions
    sizes = {"b": 3, "t": 64, "s": 24}
    assert found.matmul_flops.evaluate(**sizes) == 2 * 2 * 3 * 4 * 64 * 24 * 8
    assert [found.matmul_flops.degree(name) for name in "bts"] == [1, 1, 1]
    trained = cost.analyze_training(
        lambda q, k, v: attention.dot_product_attention(q, k, v, block_size=8).sum(), *shapes
    )
    # A backward pass has the scores once more, and a product for each of q, k, v and weights.
    products = trained.total.matmul_flops.evaluate(**sizes) / found.matmul_flops.evaluate(**sizes)
    assert 3.5 <= products <= 3.6
    assert trained.residual_bytes.degree("t") == 1
    causal = cost.analyze(
        lambda q, k, v: attention.dot_product_attention(q, k, v, is_causal=True), *shapes
    )
    assert causal.assumptions == ("a while loop runs trips_1 times",)
