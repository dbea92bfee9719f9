"""Formulas of the theory page on recurrent networks and transformers, read off the code."""

import jax
import jax.numpy as jnp
import pytest

from equipoise import attention, cost, layers
from tests.layers.zoo import attention_layer

n, d = cost.Expression("n"), cost.Expression("d")
CAUSAL = layers.transformer_block("d", is_causal=True)
RNN = layers.elman_rnn("d")


def whole(layer):
    return cost.analyze(layer.apply, layer.shapes(), "f32[n,d]")


def trained(layer):
    return cost.analyze_training(layer.apply, layer.shapes(), "f32[n,d]")


def test_products_of_a_block_and_of_a_recurrent_layer():
    mixing = whole(attention_layer("d")).matmul_flops
    inner = whole(layers.feed_forward("d")).matmul_flops
    assert mixing == 8 * n * d**2 + 4 * n**2 * d
    assert inner == 16 * n * d**2
    assert whole(CAUSAL).matmul_flops == mixing + inner
    assert whole(RNN).matmul_flops == 4 * n * d**2
    assert cost.crossover(mixing, inner, "n", d=64).root == 128
    assert cost.crossover(4 * n**2 * d, 24 * n * d**2, "n", d=64).root == 384
    assert cost.crossover(4 * n**2 * d, 4 * n * d**2, "n", d=64).root == 64


@pytest.mark.parametrize("layer", [RNN, CAUSAL], ids=["rnn", "transformer"])
def test_training_costs_three_forward_passes_in_products(layer):
    assert trained(layer).total.matmul_flops == 3 * whole(layer).matmul_flops


def test_bytes_kept_grow_with_the_length_or_its_square():
    recurrent, block = trained(RNN), trained(CAUSAL)
    assert recurrent.residual_bytes == 16 * n * d + 8 * d**2
    assert block.residual_bytes.leading("n") == 13 * n**2
    assert block.rematerialized.residual_bytes.degree("n") == 1
    # The blocks of a causal mask are counted by a name of their own where sizes are names.
    kept = []
    for length in (2048, 4096):
        layer = attention_layer(8, is_causal=True, implementation="blockwise")
        found = cost.analyze_training(layer.apply, layer.shapes(), f"f32[{length},8]")
        kept.append(found.residual_bytes.evaluate())
    assert kept[1] <= 2 * kept[0]


def test_a_step_of_use_costs_what_the_state_holds():
    cache = attention.KVCache("f32[m,1,d]", "f32[m,1,d]", "i32[]", ring=False)
    step = cost.analyze(CAUSAL.step, CAUSAL.shapes(), cache, "f32[d]")
    assert step.matmul_flops == 24 * d**2 + 4 * cost.Expression("m") * d
    assert step.depth.degree("m") == 0
    recurrent = cost.analyze(RNN.step, RNN.shapes(), "f32[d]", "f32[d]")
    assert recurrent.matmul_flops == 4 * d**2


@pytest.mark.parametrize("length", [1, 2, 4, 8, 16])
def test_checkpoints_cost_least_memory_at_the_root_of_the_depth(length):
    """Sixteen layers in segments of `length`: (L/c + c + 1) arrays at most, fewest at c = 4."""

    def segment(x):
        for _ in range(length):
            x = jnp.sin(x)
        return x

    def chain(x):
        for _ in range(16 // length):
            x = jax.checkpoint(segment)(x)
        return x.sum()

    found = cost.analyze_training(chain, "f32[n]")
    arrays = 16 // length + length + 1
    assert found.residual_bytes == 4 * n * (16 // length)
    assert found.total.unfused_peak_bytes.leading("n") == 4 * n * arrays
    assert arrays >= 2 * 4 + 1
    # Each segment but for its last layer is computed again.
    assert found.total.transcendental_flops == n * (32 + 16 - 16 // length)
