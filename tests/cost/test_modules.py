"""Modules as arguments count as their arrays do, with all else closed over."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

from equipoise import cost
from tests.cost import models

with models.usual():
    MLP = eqx.nn.MLP(64, 64, 256, 3, key=models.KEY)
    ARRAYS, FIXED = eqx.partition(MLP, eqx.is_array)


def apply(module, x):
    return jax.vmap(module)(x)


def loss(module, x):
    return jnp.mean(apply(module, x) ** 2)


def apply_arrays(arrays, x):
    return apply(eqx.combine(arrays, FIXED), x)


@models.usual()
def test_an_equinox_module_counts_as_its_arrays():
    found = cost.analyze(apply, MLP, "f32[b,64]")
    expected = cost.analyze(apply_arrays, ARRAYS, "f32[b,64]")
    for measure in ("flops", "peak_bytes", "input_bytes", "residual_bytes"):
        assert getattr(found, measure) == getattr(expected, measure), measure
    trained = cost.analyze_training(loss, MLP, "f32[b,64]", donate=0)
    gradients = sum(x.nbytes for x in jax.tree.leaves(ARRAYS))
    assert trained.total.output_bytes == gradients + 4 + 4 * 64 * cost.Expression("b")
    assert cost.best_checkpoint(loss, MLP, "f32[b,64]", at_most="1 GB", b=4).best is not None


@models.usual()
def test_a_step_returns_the_module_that_it_was_given():
    adam = optax.adam(1e-3)

    def step(module, state, x):
        updates, state = adam.update(eqx.filter_grad(loss)(module, x), state, module)
        return eqx.apply_updates(module, updates), state

    found = cost.analyze(step, MLP, adam.init(ARRAYS), "f32[b,64]", donate=(0, 1))
    assert found.output_bytes == 3 * sum(x.nbytes for x in jax.tree.leaves(ARRAYS)) + 4


class Dropping(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(8, 16, rngs=rngs)
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.activate = nnx.relu

    def __call__(self, x):
        return self.drop(self.activate(self.norm(self.dense(x))))


@models.usual()
def test_an_nnx_module_and_its_optimizer_are_arguments():
    module = Dropping(nnx.Rngs(0))
    optimizer = nnx.Optimizer(module, optax.adam(1e-3), wrt=nnx.Param)

    def step(module, optimizer, x):
        optimizer.update(module, nnx.grad(lambda m: m(x).sum())(module))
        return module, optimizer

    used = cost.analyze(lambda m, x: m(x), module, "f32[b,8]")
    assert used.matmul_flops == 2 * 8 * 16 * cost.Expression("b")
    stepped = cost.analyze(step, module, optimizer, "f32[b,8]", donate=(0, 1))
    # Backward, only the weights have a gradient: x has none.
    assert stepped.matmul_flops == 2 * used.matmul_flops
    assert stepped.input_bytes == stepped.output_bytes + 4 * 8 * cost.Expression("b")


@models.usual()
def test_flags_and_words_of_a_module_are_no_arrays_but_shapes_are():
    class Scaled(eqx.Module):
        weight: str
        mode: str
        by: float
        on: bool

        def __call__(self, x):
            return (x @ self.weight) * self.by if self.on and self.mode == "times" else x

    found = cost.analyze(lambda m, x: m(x), Scaled("f32[d,k]", "times", 2.0, True), "f32[n,d]")
    assert str(found.flops) == "2*d*k*n + k*n"
    off = cost.analyze(lambda m, x: m(x), Scaled("f32[d,k]", "times", 2.0, False), "f32[n,d]")
    assert off.flops == 0


def test_a_container_holds_arrays_alone():
    with pytest.raises(TypeError, match=r"`args\[0\]\['activation'\]` must be an array"):
        cost.analyze(lambda p, x: p["activation"](x), {"activation": jnp.tanh}, "f32[n]")
