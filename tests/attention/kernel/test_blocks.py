"""What blocks a mask makes on a CPU, and the branch that spares most of them a pass of it."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import attention
from equipoise.attention._kernel.schedule import Where, grid_of
from equipoise.attention._request import problem_of
from tests.thinned import slow_but

T, N, H = 1100, 2, 4
_rng = np.random.default_rng(0)
ARRAYS = [jnp.asarray(_rng.normal(size=(2, T, N, H)), jnp.float32) for _ in range(3)]
# Blocks in which all pairs attend, some, and none; two of them say which from arrays.
MASKS = {
    "causal": {"is_causal": True},
    "window": {"local_window_size": (800, 20)},
    "prefix": {"mask": attention.causal() | attention.prefix(600), "sinks": jnp.ones(N)},
    "lengths": {"key_value_seq_lengths": jnp.array([T, 500], jnp.int32)},
    "segments": {"segment_ids": jnp.asarray(np.arange(2 * T).reshape(2, T) // 800, jnp.int32)},
    "bias": {"is_causal": True, "bias": jnp.asarray(_rng.normal(size=(T, T)), jnp.float32)},
    "function": {
        "is_causal": True,
        "mask_fn": lambda b, h, q, k: (q + k) % 3 != h,
        "score_fn": lambda s, b, h, q, k: s * (1 + h).astype(s.dtype),
    },
}


@pytest.mark.parametrize("name", slow_but(MASKS, "causal", "segments", "function"))
def test_dot_product_attention_in_large_blocks_is_the_definition(name):
    options = MASKS[name]
    attend, define = (
        jax.jit(functools.partial(f, return_residual=True, **options))(*ARRAYS)
        for f in (attention.dot_product_attention, attention.reference_attention)
    )
    for found, wanted in zip(attend, define, strict=True):
        # Sums of 1100 terms of order one, half of whose roundings cancel.
        np.testing.assert_allclose(found, wanted, rtol=0, atol=32 * np.finfo(np.float32).eps)


def test_dot_product_attention_in_large_blocks_maps_over_lengths():
    """One loop for all entries: a block has a mask for all if one of them needs it."""
    lengths = jnp.array([[T, 500], [367, 1]], jnp.int32)

    def attend(lengths):
        return attention.dot_product_attention(*ARRAYS, key_value_seq_lengths=lengths)

    found = jax.jit(jax.vmap(attend))(lengths)
    np.testing.assert_array_equal(found, jnp.stack(list(map(jax.jit(attend), lengths))))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_dot_product_attention_in_large_blocks_reads_nothing_that_is_masked(bad):
    query, key, value = ARRAYS
    attend = jax.jit(lambda *a: attention.dot_product_attention(*a, is_causal=True))
    found = attend(query, key.at[:, 1000].set(bad), value.at[:, 900].set(bad))
    np.testing.assert_array_equal(found[:, :900], attend(*ARRAYS)[:, :900])
    assert np.isnan(found[:, 1000:]).all()


def test_dot_product_attention_copies_no_scores_to_spare_them_a_mask():
    x = jax.ShapeDtypeStruct((1, 1024, N, H), jnp.float32)
    attend = jax.jit(lambda *a: attention.dot_product_attention(*a, is_causal=True))
    cases = {
        platform: attend.trace(x, x, x)
        .lower(lowering_platforms=(platform,))
        .as_text()
        .count("stablehlo.case")
        for platform in ("cpu", "cuda", "rocm", "tpu")
    }
    # Elsewhere a branch would wait for the host.
    assert cases == {"cpu": 1, "cuda": 0, "rocm": 0, "tpu": 0}
    text = attend.lower(x, x, x).compile().as_text()
    assert text.count(" conditional(") == 1
    assert not re.search(r"= f32\[[\d,]*512,512\]\S* copy\(", text)


@pytest.mark.parametrize(
    ("length", "options", "block"),
    [
        (256, {"is_causal": True}, 64),
        (256, {"local_window_size": (20, 0)}, 64),
        (100, {"is_causal": True}, 50),
        (60, {"is_causal": True}, 60),
        (1024, {"is_causal": True}, 512),
        # Nothing is skipped, or it is not known what.
        (256, {"local_window_size": 255}, 256),
        (256, {"mask_fn": lambda b, h, q, k: q > k}, 256),
        (256, {"key_value_seq_lengths": jnp.array([3], jnp.int32)}, 256),
    ],
)
def test_grid_of_has_short_blocks_where_a_mask_is_known_to_skip_some(length, options, block):
    x = jnp.ones((1, length, N, H))
    grid = grid_of(problem_of(x, x, x, **options), Where(None, None, "cpu"))
    assert (grid.row_block, grid.key_block) == (block, block)
