"""Masks as values: what they allow, how they compose, and which blocks they rule out."""

import functools

import chex
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
ARRAY = np.random.default_rng(0).random((T, S)) < 0.3
PARENTS = np.array([-1, 0, 0, 2, 1, 3, -1, 6, 6, 3, 99, 4])


def ancestors(parents):
    """Whether a row's chain of parents meets a row; itself, too."""
    found = np.eye(len(parents), dtype=bool)
    for i, parent in enumerate(parents):
        if 0 <= parent < i:
            found[i] |= found[parent]
    return found


MASKS = {
    "causal": (attention.causal(), ROW >= COL),
    "causal offset": (attention.causal(offset=2), ROW + 2 >= COL),
    "window": (attention.sliding_window((2, 1)), (COL >= ROW - 2) & (COL <= ROW + 1)),
    "half window": (attention.sliding_window((None, 1)), COL <= ROW + 1),
    "open window": (attention.sliding_window((None, None)), (ROW >= 0) & (COL >= 0)),
    "array window": (
        attention.sliding_window((jnp.int32(2), None)) & attention.causal(offset=jnp.int32(1)),
        (COL >= ROW - 2) & (COL <= ROW + 1),
    ),
    "chunked": (attention.chunked(5), ROW // 5 == COL // 5),
    "array chunks": (attention.chunked(jnp.int32(5)), ROW // 5 == COL // 5),
    "document": (
        attention.document(np.array([3, 0, 6, 2, 3])),
        np.searchsorted([3, 9, 11, 14], ROW, "right")
        == np.searchsorted([3, 9, 11, 14], COL, "right"),
    ),
    "tree": (attention.tree(PARENTS), np.pad(ancestors(PARENTS), ((0, 0), (0, S - T)))),
    "array": (attention.causal() & ARRAY, ARRAY & (COL <= ROW)),
    "array first": (ARRAY[:1] | attention.prefix(2), ARRAY[:1] | (COL < 2) & (ROW >= 0)),
    "array inverse": (~(attention.causal() | jnp.asarray(ARRAY)), ~(ARRAY | (COL <= ROW))),
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


INEXACT = ("function", "nested", "both", "tree", "array", "array first", "array inverse")


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
        if name not in INEXACT:
            assert bool(some) == ((i, j) in pairs), "a block without a pair is skipped"


def test_from_function_prints_without_its_program():
    mask = attention.from_function(lambda b, h, q, k: k != q) & attention.causal()
    assert "from_function(...)" in repr(mask)
    assert "lambda" not in repr(mask)


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


def test_masks_by_blocks_are_those_of_the_definition():
    """What a block reads of arrays lies at its place; positions are ahead of rows."""
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.normal(size=(2, n, 4, 2))) for n in (T, S))
    array = rng.random((2, 4, T, S)) < 0.5
    past = jnp.array([5, 2])
    masks = (
        array | attention.prefix(np.array([1, 4])),
        attention.tree(np.stack([PARENTS, PARENTS - 1])),
        attention.document(np.array([[3, 6, 1], [0, 2, 7]])) & attention.chunked(4),
    )

    def outputs(attend):
        return [attend(q, k, k, mask=mask, query_offset=past) for mask in masks]

    blocks = functools.partial(attention.dot_product_attention, block_size=5)
    pairs = zip(*map(outputs, map(compiled, (blocks, attention.reference_attention))), strict=True)
    for found, wanted in pairs:
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-14)
    # All of the past, and of the tokens after it those above: none, one, and two.
    scores = compiled(attention.reference_attention)(
        q, k, k, mask=masks[1], query_offset=past, return_scores=True
    )[1]
    read = np.isfinite(scores[:, 0]).sum(-1) - past[:, None]
    assert read[0, :4].tolist() == [1, 2, 2, 3]


def test_masks_of_local_and_global_layers_in_one_scan_skip_their_blocks():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(T, 2, 3)))
    windows = (2, T)

    def layer(x, left):
        mask = attention.sliding_window((left, 0))
        return x + attention.dot_product_attention(x, x, x, mask=mask, block_size=4)

    def scanned(x):
        return jax.lax.scan(lambda x, left: (layer(x, left), None), x, jnp.array(windows))[0]

    def unrolled(x):
        return functools.reduce(layer, windows, x)

    found, wanted = (
        jax.jit(jax.value_and_grad(lambda x, f=f: jnp.sum(jnp.sin(f(x)))))(x)
        for f in (scanned, unrolled)
    )
    chex.assert_trees_all_close(found, wanted, rtol=1e-12, atol=1e-14)
    grid = Grid(1, T, S, 1, 4, 4)
    count = jax.jit(
        lambda left: schedule_of(problem(attention.sliding_window(left)), grid).stop[-1]
    )
    for left in windows:
        assert count(left) == len(computed(attention.sliding_window(left), grid))


def test_masks_of_equal_functions_are_traced_once():
    x, table = jnp.ones((T, 1, 2)), jnp.ones((T, T), bool)
    traces = []

    @jax.jit
    def attend(mask):
        traces.append(mask)
        return attention.dot_product_attention(x, x, x, mask=mask)

    def rebuilt(table, size):
        return attention.from_function(lambda b, h, q, k: table[q, k] & (q < k + size))

    for mask in (rebuilt(table, 3), rebuilt(~table, 3), rebuilt(table, 4)):
        attend(mask)
    assert len(traces) == 2


@pytest.mark.parametrize(
    ("error", "match", "call"),
    [
        (TypeError, "`offset` must be a Python integer", lambda: attention.causal(offset=1.5)),
        (
            TypeError,
            "`offset` must be an integer or",
            lambda: attention.causal(offset=jnp.ones(())),
        ),
        (ValueError, "`size` must be at least 1", lambda: attention.chunked(0)),
        (TypeError, "`size` must be an integer or", lambda: attention.chunked(jnp.arange(2))),
        (ValueError, "`lengths` must have an axis", lambda: attention.document(3)),
        (TypeError, "`parents` must hold integers", lambda: attention.tree(np.ones(3))),
        (ValueError, "`mask` must have arrays", lambda: problem(attention.tree([-1, 0]))),
        (ValueError, "`mask` must broadcast", lambda: problem(attention.causal() & ARRAY[:, 1:])),
        (ValueError, "`size` must be at least 0", lambda: attention.sliding_window(-1)),
        (TypeError, "`size` must be a Python integer", lambda: attention.sliding_window(1.5)),
        (ValueError, "`size` must be a number", lambda: attention.sliding_window((1, 2, 3))),
        (TypeError, "`query_ids` must hold integers", lambda: attention.segments(np.ones(3))),
        (ValueError, "`query_ids` must have an axis", lambda: attention.segments(3)),
        (TypeError, "`length` must hold integers", lambda: attention.prefix(1.5)),
        (TypeError, "`mask_fn` must be a function", lambda: attention.from_function(3)),
        (TypeError, "or a boolean array", lambda: attention.causal() & np.ones(3)),
        (ValueError, "`mask` must have arrays", lambda: problem(attention.segments([1, 2]))),
    ],
)
def test_masks_reject(error, match, call):
    with pytest.raises(error, match=match):
        call()
