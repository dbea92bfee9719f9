import functools
import pickle

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from equipoise import cost
from tests.cost import programs

SCALARS = {
    "divided_by_its_length": (lambda x: x / x.shape[0], "f32[n]"),
    "variance": (lambda x: jnp.var(x, -1, ddof=1) * jnp.mean(x), "f32[n,d]"),
    "indexed": (lambda x: x[0] * x[-1] * x.sum(0), "f32[n,d]"),
    "mapped": (lambda x: lax.map(lambda r: jnp.tanh(jnp.mean(r) * r), x), "f32[n,d]"),
    "jitted": (jax.jit(lambda x: jnp.mean(jnp.exp(x)) / x.shape[0]), "f32[n,d]"),
}
FUNCTIONS = programs.PROGRAMS | programs.STEP | SCALARS


def kept_bytes(fn, args):
    """Bytes of the leaves of JAX's own vjp function."""
    leaves = jax.tree.leaves(jax.eval_shape(lambda *xs: jax.vjp(fn, *xs)[1], *args))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_analyze_residual_bytes_are_those_of_vjp(name, rng):
    fn, *args = FUNCTIONS[name]
    found = cost.analyze(fn, *args).residual_bytes
    for _ in range(5):
        sizes = programs.random_sizes(rng)
        expected = kept_bytes(fn, programs.with_sizes(tuple(args), sizes))
        assert found.evaluate(**sizes) == expected


@pytest.mark.parametrize("name", ["mlp", "rnn", "attention"])
def test_analyze_training_residual_bytes_are_those_of_vjp_with_checkpoint(name, rng):
    fn, *args = programs.PROGRAMS[name]
    policy = jax.checkpoint_policies.dots_saveable
    for chosen in (None, policy):
        found = cost.analyze_training(fn, *args, policy=chosen)
        sizes = programs.random_sizes(rng)
        concrete = programs.with_sizes(tuple(args), sizes)
        assert found.residual_bytes.evaluate(**sizes) == kept_bytes(fn, concrete)
        again = kept_bytes(jax.checkpoint(fn, policy=chosen), concrete)
        assert found.rematerialized.residual_bytes.evaluate(**sizes) == again


def test_analyze_training_matmuls_cost_twice_as_much_backward():
    found = cost.analyze_training(programs.mlp, programs.MLP, "f32[n,i]")
    assert found.backward.matmul_flops == 2 * found.forward.matmul_flops
    assert found.total.matmul_flops == 3 * found.forward.matmul_flops
    # Computing the forward pass again adds one more, less the product that nothing needs.
    last = cost.Expression("n") * cost.Expression("h") * cost.Expression("o") * 2
    again = found.rematerialized.matmul_flops
    assert again in (4 * found.forward.matmul_flops, 4 * found.forward.matmul_flops - last)


def test_analyze_training_total_is_both_passes():
    found = cost.analyze_training(programs.rnn, programs.RNN, "f32[n,b,e]")
    for kind in ("flops", "elementwise_flops", "bytes_read"):
        parts = getattr(found.forward, kind) + getattr(found.backward, kind)
        assert getattr(found.total, kind) == parts
    assert found.total.depth.degree("n") == 1
    assert found.total.depth <= found.forward.depth + found.backward.depth
    assert found.residual_bytes <= found.total.peak_bytes
    assert found.total.output_bytes.evaluate(n=2, b=1, d=3, e=1) == 4 * (2 * 3 + 9 + 3 + 3 + 2)


def test_analyze_training_total_agrees_with_the_traced_gradient():
    found = cost.analyze_training(programs.loss(programs.mlp), programs.MLP, "f32[n,i]").total
    both = cost.analyze(
        lambda p, x: jax.value_and_grad(programs.loss(programs.mlp), argnums=(0, 1))(p, x),
        *(programs.MLP, "f32[n,i]"),
    )
    assert found.matmul_flops == both.matmul_flops
    assert found.depth == both.depth


def test_analyze_training_saves_memory_with_checkpoint():
    def deep(x):
        for _ in range(8):
            x = jnp.sin(x)
        return x

    found = cost.analyze_training(deep, "f32[n]")
    assert str(found.residual_bytes) == "32*n"
    assert str(found.rematerialized.residual_bytes) == "4*n"
    assert found.rematerialized.flops > found.total.flops


def test_analyze_training_without_floats_costs_nothing_backward():
    found = cost.analyze_training(lambda i: i + 1, "i32[n]")
    assert found.backward.flops == 0
    assert found.residual_bytes == 0


def test_analyze_training_with_integers_beside_floats():
    def pick(x, i):
        return x[i], i + 1

    # With float64 on, JAX computes indices from named sizes in 64 bits, from numbers in 32.
    with jax.enable_x64(False):
        found = cost.analyze_training(pick, "f32[n]", "i32[k]")
    args = jax.ShapeDtypeStruct((3,), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.int32)
    assert found.residual_bytes.evaluate(n=3, k=2) == kept_bytes(pick, args)
    assert str(found.total.output_bytes) == "8*k + 4*n"


def test_analyze_training_rejects_a_function_without_reverse_mode():
    def halve(x):
        return lax.while_loop(lambda y: jnp.all(y > 1), lambda y: y / 2, x)

    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work"):
        cost.analyze_training(halve, "f32[n]")
    with pytest.raises(ValueError, match=r"cost.analyze_training: .* must be a dtype with"):
        cost.analyze_training(lambda x: x, "f32[n")
    with pytest.raises(
        TypeError, match=r"`policy` must be one of jax\.checkpoint_policies; got dots"
    ):
        cost.analyze_training(jnp.sin, "f32[n]", policy="dots_saveable")
    with pytest.raises(TypeError, match=r"`args\[0\]` must be an array"):
        cost.analyze_training(lambda x: x, object())


def stack(params, x):
    return functools.reduce(lambda x, layer: programs.block(layer, x), params, x)


@pytest.mark.slow
def test_analyze_training_of_twelve_layers_is_twelve_times_one_whatever_the_sizes():
    layer, stacked = programs.BLOCK, [programs.BLOCK] * 12
    one, twelve = (
        cost.analyze_training(programs.loss(fn), params, "f32[b,n,d]")
        for fn, params in ((programs.block, layer), (stack, stacked))
    )
    # A block of its own also has the loss, but all matrix products are the layers'.
    assert twelve.total.matmul_flops == 12 * one.total.matmul_flops
    sizes = {"b": 32, "n": 65536, "d": 64}
    numbers = cost.analyze_training(
        programs.loss(stack), *programs.with_sizes((stacked, "f32[b,n,d]"), sizes)
    )
    assert numbers.total.flops.evaluate() == twelve.total.flops.evaluate(**sizes)


def test_analyze_residual_bytes_are_found_when_asked_for_as_when_analyzed():
    calls = []

    def f(x):
        calls.append(x.dtype)
        return jnp.sin(x) * jnp.arange(3.0)

    with jax.enable_x64(False):
        found = cost.analyze(f, "f32[3]")
    assert len(calls) == 1
    assert pickle.loads(pickle.dumps(found)).residual_bytes == found.residual_bytes == 24
    assert len(calls) == 2


def network(w, x):
    return jnp.mean(jnp.tanh(jnp.sin(x @ w) @ w) ** 2)


NETWORK = (network, "f32[d,d]", "f32[n,d]")


def test_analyze_training_donated_arguments_make_room_for_gradients():
    kept, given = (cost.analyze_training(*NETWORK, donate=d).total for d in ((), 0))
    assert kept.peak_bytes - given.peak_bytes == 4 * cost.Expression("d") ** 2
    assert given.flops == kept.flops
    with pytest.raises(ValueError, match=r"cost.analyze_training: `donate` must name arguments"):
        cost.analyze_training(lambda i, x: x[i].sum(), "i32[n]", "f32[m]", donate=0)


def test_analyze_training_lists_each_policy_as_best_checkpoint_does():
    found = cost.analyze_training(*NETWORK)
    sizes = {"n": 64, "d": 16}
    listed = cost.best_checkpoint(*NETWORK, at_most="1 GB", **sizes)
    assert tuple(found.checkpoints) == listed.policies
    for name, kept, work in zip(listed.policies, listed.residual_bytes, listed.flops, strict=True):
        policy = found.checkpoints[name]
        assert (policy.residual_bytes.evaluate(**sizes), policy.flops.evaluate(**sizes)) == (
            kept,
            work,
        )
        checkpointed = jax.checkpoint(network, policy=getattr(jax.checkpoint_policies, name))
        args = programs.with_sizes(NETWORK[1:], sizes)
        assert kept == kept_bytes(checkpointed, args)
        assert f"  {name} " in str(found)


def test_analyze_training_says_what_the_forward_pass_does_for_the_derivative():
    found = cost.analyze_training(*NETWORK)
    assert found.prepared_flops + cost.analyze(*NETWORK).flops == found.forward.flops
    # The cosine, 1 − tanh² less a sum that is not needed, and what the square hands on.
    assert str(found.prepared_flops) == "3*d*n"
    assert "for the derivative alone  3*d*n" in str(found)
    copied = pickle.loads(pickle.dumps(found))
    assert copied.prepared_flops == found.prepared_flops
