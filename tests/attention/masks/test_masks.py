"""Masks as values: what they allow, how they compose, and which blocks they rule out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import attention
from equipoise.attention._kernel.grid import Grid
from equipoise.attention._kernel.schedule import schedule_of
from equipoise.attention._request import problem_of
from tests.compiled import compiled

T, S = 12, 17
ROW_IDS = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 3])
KEY_IDS = np.array([0] * 5 + [2] * 7 + [3] * 5)
ROW, COL = np.arange(T)[:, None], np.arange(S)[None, :]

MASKS = {
    "causal": (attention.causal(), ROW >= COL),
    "causal offset": (attention.causal(offset=2), ROW + 2 >= COL),
    "window": (attention.sliding_window((2, 1)), (COL >= ROW - 2) & (COL <= ROW + 1)),
    "half window": (attention.sliding_window((None, 1)), COL <= ROW + 1),
    "open window": (attention.sliding_window((None, None)), (ROW >= 0) & (COL >= 0)),
    "prefix": (attention.prefix(3), (COL < 3) & (ROW >= 0)),
    "segments": (attention.segments(ROW_IDS, KEY_IDS), ROW_IDS[:, None] == KEY_IDS[None]),
    "function": (
        attention.from_function(lambda b, h, q, k: (q + k) % 2 == 0),
        (ROW + COL) % 2 == 0,
    ),
    "both": (attention.causal() & attention.sliding_window(4), (COL <= ROW) & (COL >= ROW - 4)),
    "either": (attention.causal() | attention.prefix(4), (COL <= ROW) | (COL < 4)),
    "inverse": (~attention.causal(), COL > ROW),
    "nested": (
        ~(attention.segments(ROW_IDS, KEY_IDS) | attention.causal()),
        ~((ROW_IDS[:, None] == KEY_IDS[None]) | (COL <= ROW)),
    ),
}


def problem(mask):
    x, y = jnp.ones((T, 1, 2)), jnp.ones((S, 1, 2))
    return problem_of(x, y, y, mask=mask)


def computed(mask, grid):
    """The blocks of rows and keys that are computed, in order."""
    row, key, stop = map(np.asarray, schedule_of(problem(mask), grid))
    return list(zip(row[: stop[-1]].tolist(), key[: stop[-1]].tolist(), strict=True))


@pytest.mark.parametrize("name", MASKS)
def test_masks_allow_what_they_say(name):
    mask, wanted = MASKS[name]
    x, y = np.ones((T, 1, 2)), np.ones((S, 1, 2))
    define = compiled(attention.reference_attention)
    scores = define(x, y, y, mask=mask, return_scores=True)[1]
    np.testing.assert_array_equal(np.isfinite(scores[0]), wanted)


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize(("row_block", "key_block"), [(4, 5), (12, 17), (1, 1), (5, 4)])
def test_masks_compute_every_block_that_has_a_pair(name, row_block, key_block):
    mask, wanted = MASKS[name]
    grid = Grid(1, T, S, 1, row_block, key_block)
    pairs = computed(mask, grid)
    assert pairs == sorted(set(pairs)), "each once, those of the same rows together"
    for i, j in np.ndindex(grid.row_blocks, grid.key_blocks):
        row, key = min(i * row_block, T - row_block), min(j * key_block, S - key_block)
        some = wanted[row : row + row_block, key : key + key_block].any()
        assert (i, j) in pairs or not some
        if name not in ("function", "nested", "both"):
            assert bool(some) == ((i, j) in pairs), "a block without a pair is skipped"


def test_masks_halve_causal_work_and_bound_window_work():
    mask = attention.causal()
    grid = Grid(1, 12, 12, 1, 1, 1)
    assert len(computed(mask, grid)) == 12 * 13 // 2
    rows = [row for row, _ in computed(mask & attention.sliding_window(2), grid)]
    assert max(map(rows.count, rows)) == 3


def test_masks_pass_through_jit_and_vmap():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(T, 2, 3)))

    def f(mask):
        return attention.dot_product_attention(x, x, x, mask=mask, block_size=4)

    ids = jnp.stack([jnp.asarray(ROW_IDS), jnp.arange(T) // 2])
    mask = attention.segments(ids[0]) & attention.causal()
    np.testing.assert_allclose(jax.jit(f)(mask), f(mask), rtol=1e-12)
    mapped = jax.jit(jax.vmap(lambda i: f(attention.segments(i))))(ids)
    one = jax.jit(f)(attention.segments(ids[1]))
    np.testing.assert_allclose(mapped[1], one, rtol=1e-12)


@pytest.mark.parametrize(
    ("error", "match", "call"),
    [
        (TypeError, "`offset` must be a Python integer", lambda: attention.causal(offset=1.5)),
        (ValueError, "`size` must be at least 0", lambda: attention.sliding_window(-1)),
        (TypeError, "`size` must be a Python integer", lambda: attention.sliding_window(1.5)),
        (ValueError, "`size` must be a number", lambda: attention.sliding_window((1, 2, 3))),
        (TypeError, "`query_ids` must hold integers", lambda: attention.segments(np.ones(3))),
        (ValueError, "`query_ids` must have an axis", lambda: attention.segments(3)),
        (TypeError, "`length` must hold integers", lambda: attention.prefix(1.5)),
        (TypeError, "`mask_fn` must be a function", lambda: attention.from_function(3)),
        (TypeError, "must combine two mask values", lambda: attention.causal() & np.ones(3)),
        (ValueError, "`mask` must have arrays", lambda: problem(attention.segments([1, 2]))),
    ],
)
def test_masks_reject(error, match, call):
    with pytest.raises(error, match=match):
        call()
