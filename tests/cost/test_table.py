"""Table 1 of Vaswani et al. (2017), derived from the layers by the library."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import cost, layers
from tests.layers.zoo import attention_layer

NAMED = {
    "self-attention": attention_layer("d"),
    "recurrent": layers.elman_rnn("d"),
    "convolutional": layers.convolution("d", kernel_size="k"),
    "restricted": attention_layer("d", window="r"),
}
PROJECTIONS = 8 * cost.Expression("n") * cost.Expression("d") ** 2


def analyzed(name):
    return cost.analyze(NAMED[name].apply, NAMED[name].shapes(), "f32[n,d]")


@pytest.mark.parametrize(
    ("name", "aside", "mixing"),
    [
        # The table counts what mixes positions, without attention's four projections.
        ("self-attention", PROJECTIONS, "4*d*n^2"),
        ("recurrent", 0, "4*d^2*n"),
        ("convolutional", 0, "2*d^2*k*n"),
        # r positions to each side, the own one included, are a neighborhood of 2·r − 1.
        ("restricted", PROJECTIONS, "8*d*n*r - 4*d*n"),
    ],
)
def test_table_complexity_a_layer(name, aside, mixing):
    found = analyzed(name)
    assert str(found.matmul_flops - aside) == mixing
    assert found.flops.degree("n") == (2 if name == "self-attention" else 1)
    # The layer closes over r, so it has no program with numbers to read residuals off.
    note = "scalars that follow from sizes alone: all counted as residuals"
    assert found.assumptions == ((note,) if name == "restricted" else ())


@pytest.mark.parametrize("name", NAMED)
def test_table_sequential_operations(name):
    depth = analyzed(name).depth
    assert depth.degree("n") == (1 if name == "recurrent" else 0)
    assert all(depth.degree(size) == 0 for size in (depth.names | depth.scope) - {"n"})


def applied(layer):
    params = jax.jit(layer.init)(jax.random.key(0))
    return lambda x: layer.apply(params, x)


LENGTHS = (4, 8, 12)


def test_table_path_length_of_self_attention_is_one():
    f = applied(attention_layer(1))
    assert [cost.path_length(f, jnp.ones((n, 1))) for n in LENGTHS] == [1, 1, 1]


def test_table_path_length_of_recurrent_is_n():
    f = applied(layers.elman_rnn(1))
    assert [cost.path_length(f, jnp.ones((n, 1))) for n in LENGTHS] == list(LENGTHS)


@pytest.mark.parametrize("r", [2, 3])
def test_table_path_length_of_restricted_is_n_over_r(r):
    f = applied(attention_layer(1, window=r))
    found = [cost.path_length(f, jnp.ones((n, 1))) for n in LENGTHS]
    # One application reaches r − 1 positions to either side.
    assert found == [math.ceil((n - 1) / (r - 1)) for n in LENGTHS]


@pytest.mark.parametrize("k", [2, 3])
def test_table_path_length_of_convolution_is_n_over_k_or_log_n(k):
    contiguous = applied(layers.convolution(1, kernel_size=k, is_causal=True))
    found = [cost.path_length(contiguous, jnp.ones((n, 1))) for n in LENGTHS]
    assert found == [math.ceil((n - 1) / (k - 1)) for n in LENGTHS]
    for n in LENGTHS:
        depth = next(j for j in range(9) if k**j >= n)  # ⌈log_k n⌉, in integers
        dilated = [
            applied(layers.convolution(1, kernel_size=k, dilation=k**i, is_causal=True))
            for i in range(depth)
        ]
        assert cost.path_length(dilated, jnp.ones((n, 1))) == depth


def test_table_path_lengths_have_the_degrees_of_the_table():
    n = np.array([8.0, 16.0, 32.0])
    slopes = {}
    for name, layer in (
        ("recurrent", layers.elman_rnn(1)),
        ("self-attention", attention_layer(1)),
    ):
        found = [cost.path_length(applied(layer), jnp.ones((int(m), 1))) for m in n]
        slopes[name] = np.polyfit(np.log(n), np.log(found), 1)[0]
    assert slopes["recurrent"] == pytest.approx(1)
    assert slopes["self-attention"] == pytest.approx(0)
