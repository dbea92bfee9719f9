"""What reads what, found from programs whose patterns are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from equipoise import cost, layers
from tests.layers.zoo import attention_layer

N, D = 5, 2
FULL = np.ones((N, N), bool)
LOWER = np.tril(FULL)


def band(low, high):
    offsets = np.subtract.outer(np.arange(N), np.arange(N))
    return (low <= offsets) & (offsets <= high)


def applied(layer):
    params = jax.jit(layer.init)(jax.random.key(4))
    return lambda x: layer.apply(params, x)


X = jax.random.normal(jax.random.key(1), (N, D))

LAYERS = {
    "feed_forward": (layers.feed_forward(D), "identity", np.eye(N, dtype=bool)),
    "layer_norm": (layers.layer_norm(D), "identity", np.eye(N, dtype=bool)),
    "attention": (attention_layer(D), "all-to-all", FULL),
    "attention_causal": (attention_layer(D, is_causal=True), "lower triangular", LOWER),
    "attention_window": (attention_layer(D, window=2), "banded", band(-1, 1)),
    "attention_causal_window": (
        attention_layer(D, is_causal=True, window=3),
        "banded",
        band(0, 2),
    ),
    "linear_attention": (layers.linear_attention(D, is_causal=True), "lower triangular", LOWER),
    "rnn": (layers.elman_rnn(D), "lower triangular", LOWER),
    "gru": (layers.gru(D), "lower triangular", LOWER),
    "convolution": (layers.convolution(D, kernel_size=3), "banded", band(-1, 1)),
    "dilated": (layers.convolution(D, kernel_size=2, dilation=2, is_causal=True), "dilated", None),
    "block": (layers.transformer_block(D, is_causal=True), "lower triangular", LOWER),
}


@pytest.mark.slow
def test_dependencies_of_blockwise_attention_are_those_of_its_mask():
    layer = attention_layer(D, is_causal=True, implementation="blockwise")
    found = cost.dependencies(applied(layer), X)
    np.testing.assert_array_equal(found.measured, LOWER)
    np.testing.assert_array_equal(found.structural, LOWER)
    assert found.confirmed


@pytest.mark.parametrize("name", LAYERS)
def test_dependencies_of_layers_are_found_and_confirmed(name):
    layer, kind, pattern = LAYERS[name]
    found = cost.dependencies(applied(layer), X)
    assert found.kind == kind
    assert found.confirmed
    assert found.assumptions == ()
    if pattern is None:
        pattern = band(0, 0) | band(2, 2)
        assert found.offsets == (0, 2)
    np.testing.assert_array_equal(found.structural, pattern)


WEIGHTS = jnp.asarray(
    [[1.0, 0, 0, 0, 2], [0, 0, 3, 0, 0], [0, 0, 0, 0, 0], *[[1.0, 1, 0, 0, 0]] * 2]
)

PROGRAMS = {
    "sparse matrix": (lambda x: WEIGHTS.astype(x.dtype) @ x, np.asarray(WEIGHTS) != 0),
    "reverse": (lambda x: x[::-1] ** 2, np.eye(N, dtype=bool)[::-1]),
    "sum below": (lambda x: jnp.cumsum(x, axis=0), LOWER),
    "sum above": (lambda x: jax.lax.cumsum(x, reverse=True), LOWER.T),
    "fourier": (lambda x: jnp.abs(jnp.fft.fft(x, axis=0)), FULL),
    "gather": (lambda x: x[jnp.array([0, 0, 3, 3, 1])], np.eye(N, dtype=bool)[[0, 0, 3, 3, 1]]),
    "replace": (lambda x: x.at[2].set(0.0).at[3].set(x[0]), None),
    "roll": (lambda x: jnp.roll(x, 2, axis=0), np.roll(np.eye(N, dtype=bool), 2, axis=0)),
    "mean": (lambda x: x - x.mean(axis=0, keepdims=True), FULL),
    "additive mask": (
        lambda x: jax.nn.softmax(x @ x.T + jnp.where(jnp.asarray(LOWER), 0.0, -1e9)) @ x,
        LOWER,
    ),
    "known branch": (
        lambda x: jax.lax.cond(N > 3, lambda: x, lambda: x[::-1]),
        np.eye(N, dtype=bool),
    ),
    "loop of known length": (
        lambda x: jax.lax.fori_loop(0, 2, lambda _, y: y + jnp.roll(y, 1, 0).at[0].set(0.0), x),
        band(0, 2),
    ),
    "checkpoint": (jax.checkpoint(lambda x: jnp.sin(x)), np.eye(N, dtype=bool)),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_dependencies_of_programs_are_exact(name):
    fn, pattern = PROGRAMS[name]
    if pattern is None:
        pattern = np.eye(N, dtype=bool)
        pattern[2, 2], pattern[3, 3], pattern[3, 0] = False, False, True
    found = cost.dependencies(fn, X)
    np.testing.assert_array_equal(found.structural, pattern)
    assert found.confirmed
    assert found.assumptions == ()


def test_dependencies_unknown_branch_and_loop_read_everything_that_they_may():
    def fn(x):
        y = jax.lax.cond(x[0, 0] > 0, lambda: x, lambda: x[::-1])
        return jax.lax.while_loop(lambda y: y[1, 0] > 100.0, lambda y: y * 2, y)

    found = cost.dependencies(fn, X)
    want = np.eye(N, dtype=bool) | np.eye(N, dtype=bool)[::-1]
    want[:, [0, 1, 3]] = True  # the predicate, and the condition through either branch
    np.testing.assert_array_equal(found.structural, want)
    assert not (np.asarray(found.measured) & ~want).any()
    assert found.assumptions == ("while: the number of iterations depends on the input",)


def test_dependencies_unknown_primitive_is_named():
    found = cost.dependencies(lambda x: x[jnp.argsort(x[:, 0])], X)
    assert found.kind == "all-to-all"
    assert not found.confirmed
    assert any("gather" in note for note in found.assumptions)


def test_dependencies_of_sort_are_all_though_derivatives_see_one_order():
    found = cost.dependencies(lambda x: jnp.sort(x, axis=0), X)
    assert found.kind == "all-to-all"
    assert found.assumptions == ()
    assert found.measured.any()


def test_dependencies_measured_is_less_where_derivatives_vanish():
    found = cost.dependencies(jnp.sign, X)
    assert found.kind == "identity"
    assert not found.measured.any()
    assert not found.confirmed


def test_dependencies_constant_reads_nothing():
    found = cost.dependencies(lambda x: 0 * x + 1, X)
    assert (found.kind, found.offsets, found.confirmed) == ("none", (), True)


def test_dependencies_axis_and_other_lengths():
    found = cost.dependencies(lambda x: x[:, ::2], jax.ShapeDtypeStruct((3, 6), jnp.float64), -1)
    np.testing.assert_array_equal(found.structural, np.eye(6, dtype=bool)[::2])
    assert found.kind == "other"
    assert found.confirmed


def test_dependencies_prints_its_pattern():
    lines = str(cost.dependencies(lambda x: jnp.cumsum(x, axis=0), X)).splitlines()
    assert lines[0] == "Dependencies: lower triangular"
    assert lines[-1].strip() == "#" * N


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: cost.dependencies(jnp.sin, jnp.arange(3)), TypeError, "`x` must be a floating"),
        (lambda: jax.jit(lambda x: cost.dependencies(jnp.sin, x))(X), TypeError, "outside of jit"),
        (lambda: cost.dependencies(jnp.sin, X, 2), ValueError, "`axis` must be an axis of `x`"),
        (lambda: cost.dependencies(jnp.sum, X), ValueError, "must be an axis of the result"),
        (lambda: cost.dependencies(lambda x: (x, x), X), TypeError, "must return one array"),
        (lambda: cost.dependencies(jnp.sin, jnp.ones(999)), ValueError, "1 to 256 positions"),
    ],
)
def test_dependencies_rejects_a_mistake(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_dependencies_of_a_reduction_by_a_program_read_all():
    def fn(x):
        return lax.reduce(x, 0.0, lambda a, b: a + b + a * b, (1,))

    found = cost.dependencies(fn, jnp.ones((3, 2)))
    assert found.structural.all()
    assert found.assumptions == ("reduce: not known, every result reads every operand",)


def test_pattern_is_a_word_and_a_sentence():
    found = cost.dependencies(jnp.cumsum, jnp.ones(3))
    assert found.kind is cost.Pattern.LOWER_TRIANGULAR
    assert found.kind == "lower triangular"
    assert all(word == str(word) and word.sentence.endswith(".") for word in cost.Pattern)
