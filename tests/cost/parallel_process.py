"""Run in a process of its own: ways to train and to serve a model on a mesh of eight devices.

Each is compiled. What is counted of one device, products of matrices and the bytes that its
collectives send, is what the compiled program has; the peak is near XLA's.
"""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import functools

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from equipoise import attention, cost, layers
from tests.cost.mesh_process import compiled as sent_by
from tests.cost.partition_process import products_in

P = PartitionSpec
GRID = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
LINE = jax.make_mesh((8,), ("i",), axis_types=(AxisType.Auto,))
CUBE = jax.make_mesh((2, 2, 2), ("pod", "data", "model"), axis_types=(AxisType.Auto,) * 3)
B, N, H, K, V = 16, 64, 64, 256, 512


def array(mesh, shape, *spec, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, P(*spec)))


def held(mesh, x, *spec):
    return lax.with_sharding_constraint(x, NamedSharding(mesh, P(*spec)))


def spread(mesh, fn, inside, outside):
    return jax.shard_map(fn, mesh=mesh, in_specs=inside, out_specs=outside, check_vma=False)


def descend(loss, params, *args, rate=0.1):
    return jax.tree.map(lambda p, g: p - rate * g, params, jax.grad(loss)(params, *args))


def mlp(params, x):
    for w, u in params:
        x = x + jax.nn.gelu(x @ w) @ u
    return x


def square(params, x):
    return jnp.mean(mlp(params, x) ** 2)


def two_axes(depth=2):
    """Megatron's layers: columns, then rows, along one axis; the batch along the other."""
    pair = array(GRID, (H, K), None, "model"), array(GRID, (K, H), "model")
    step = functools.partial(descend, square)
    return step, [pair] * depth, array(GRID, (B, N, H), "data")


def fully_sharded(depth=2):
    """Weights in parts, each brought together for its layer and gradients scattered again."""

    def loss(params, x):
        for w, u in params:
            w, u = (lax.all_gather(v, "i", axis=0, tiled=True) for v in (w, u))
            x = x + jax.nn.gelu(x @ w) @ u
        return jnp.mean(x**2)

    step = spread(LINE, functools.partial(descend, loss), (P("i"), P("i")), P("i"))
    pair = array(LINE, (H, K), "i"), array(LINE, (K, H), "i")
    return step, [pair] * depth, array(LINE, (B, N, H), "i")


def sequence_parallel():
    """Rows are brought together before a product of columns, and scattered after one of rows."""

    def layer(w, u, x):
        x = lax.all_gather(x, "i", axis=1, tiled=True)
        y = jax.nn.gelu(x @ w) @ u
        return lax.psum_scatter(y, "i", scatter_dimension=1, tiled=True)

    weights = array(LINE, (H, K), None, "i"), array(LINE, (K, H), "i")
    inside = P(None, "i"), P("i"), P(None, "i")
    return spread(LINE, layer, inside, P(None, "i")), *weights, array(LINE, (4, N, H), None, "i")


def experts():
    """Tokens go to their experts, and come back."""

    def layer(w, u, x):
        x = lax.all_to_all(x, "i", split_axis=0, concat_axis=1, tiled=True)
        y = jnp.einsum("eck,ekh->ech", jax.nn.gelu(jnp.einsum("ech,ehk->eck", x, w)), u)
        return lax.all_to_all(y, "i", split_axis=1, concat_axis=0, tiled=True)

    weights = array(LINE, (8, H, K), "i"), array(LINE, (8, K, H), "i")
    inside, tokens = (P("i"), P("i"), P(None, "i")), array(LINE, (8, 8 * B, H), None, "i")
    return spread(LINE, layer, inside, P(None, "i")), *weights, tokens


def pipeline(microbatches=4):
    """Each device has a layer; microbatches pass along the line."""

    def stages(w, x):
        ring = [(i, (i + 1) % 8) for i in range(8)]

        def tick(carry, i):
            mine = jnp.where(lax.axis_index("i") == 0, x[jnp.minimum(i, microbatches - 1)], carry)
            made = jnp.tanh(mine @ w[0])
            return lax.ppermute(made, "i", ring), made

        return lax.scan(tick, jnp.zeros_like(x[0]), jnp.arange(microbatches + 7))[1]

    args = array(LINE, (8, H, H), "i"), array(LINE, (microbatches, B, H))
    return spread(LINE, stages, (P("i"), P()), P(None, "i")), *args


def optimizer():
    """The same step everywhere, on gradients that are averaged; the state is given away."""
    adam = optax.adamw(1e-3)
    params = [(jnp.zeros((H, K)), jnp.zeros((K, H)))] * 2
    state = jax.eval_shape(adam.init, params)

    def step(params, state, x):
        updates, state = adam.update(jax.grad(square)(params, x), state, params)
        return optax.apply_updates(params, updates), state

    whole = functools.partial(jax.tree.map, lambda v: array(LINE, v.shape, dtype=v.dtype))
    return step, whole(params), whole(state), array(LINE, (B, N, H), "i")


def scattered_state():
    """The optimizer's state in parts, gradients scattered and weights brought together again."""

    def step(w, m, x):
        g = jax.grad(lambda w: jnp.mean(jnp.tanh(x @ w) ** 2))(w)
        g = lax.psum_scatter(g, "i", scatter_dimension=0, tiled=True) / 8
        m = 0.9 * m + g
        size = H // 8
        part = lax.dynamic_slice_in_dim(w, lax.axis_index("i") * size, size) - 0.1 * m
        return lax.all_gather(part, "i", axis=0, tiled=True), m

    args = array(LINE, (H, K)), array(LINE, (H, K), "i"), array(LINE, (8 * B, H), "i")
    return spread(LINE, step, (P(), P("i"), P("i")), (P(), P("i"))), *args


def batch_norm():
    """Moments over a batch that is divided."""

    def loss(params, x):
        (w, scale, shift) = params
        y = x @ w
        mean, var = y.mean(0), y.var(0)
        y = (y - mean) * lax.rsqrt(var + 1e-5) * scale + shift
        return jnp.mean(jax.nn.relu(y))

    params = array(LINE, (H, K)), array(LINE, (K,)), array(LINE, (K,))
    return functools.partial(descend, loss), params, array(LINE, (8 * B, H), "i")


def images():
    """Two convolutions and a product, the batch divided."""

    def loss(params, x):
        k1, k2, w = params
        x = jax.nn.relu(lax.conv(x, k1, (1, 1), "SAME"))
        x = jax.nn.relu(lax.conv(x, k2, (2, 2), "SAME"))
        return jnp.mean((x.mean((2, 3)) @ w) ** 2)

    params = array(LINE, (16, 3, 3, 3)), array(LINE, (32, 16, 3, 3)), array(LINE, (32, 10))
    return functools.partial(descend, loss), params, array(LINE, (32, 3, 16, 16), "i")


def heads():
    """This library's attention, with heads along one axis and the batch along the other."""

    def layer(wq, wk, wv, wo, x):
        q, k, v = (jnp.einsum("bnd,dhe->bnhe", x, w) for w in (wq, wk, wv))
        y = attention.dot_product_attention(q, k, v, is_causal=True)
        return jnp.einsum("bnhe,hed->bnd", y, wo)

    weights = [array(GRID, (H, 4, 16), None, "model")] * 3 + [array(GRID, (4, 16, H), "model")]
    return layer, *weights, array(GRID, (8, N, H), "data")


def ring():
    """This library's attention over a sequence that is divided."""

    def attend(q, k, v):
        return attention.ring_attention(q, k, v, axis_name="i", is_causal=True)

    several = [array(LINE, (2, 8 * 16, 4, 16), None, "i")] * 3
    return spread(LINE, attend, (P(None, "i"),) * 3, P(None, "i")), *several


def vocabulary():
    """Words looked up, and scored against, in a table whose rows are divided."""

    def loss(e, i, y):
        scores = jax.nn.log_softmax(jnp.tanh(e[i]) @ e.T)
        return -jnp.mean(jnp.take_along_axis(scores, y[..., None], -1))

    tokens = array(GRID, (8, 16), "data", dtype=jnp.int32)
    return functools.partial(descend, loss), array(GRID, (V, H), "model"), tokens, tokens


def halfway():
    """The sequence is divided along one axis between layers, the width within them."""

    def loss(params, x):
        for w, u in params:
            y = held(GRID, jax.nn.gelu(x @ w), "data", None, "model")
            x = held(GRID, x + y @ u, "data")
        return jnp.mean(x**2)

    pair = array(GRID, (H, K)), array(GRID, (K, H))
    return functools.partial(descend, loss), [pair] * 2, array(GRID, (B, N, H), "data")


def three_axes():
    """Batches along two axes, widths along the third."""
    pair = array(CUBE, (H, K), None, "model"), array(CUBE, (K, H), "model")
    return functools.partial(descend, square), [pair] * 2, array(CUBE, (B, N, H), ("pod", "data"))


def partly_mapped():
    """A map along one axis, inside of which the partitioner divides along the other."""

    def step(params, x):
        gradients = jax.grad(square)(params, x)
        return jax.tree.map(lambda p, g: p - 0.1 * lax.pmean(g, "data"), params, gradients)

    mapped = jax.shard_map(
        step,
        mesh=GRID,
        in_specs=(P(), P("data")),
        out_specs=P(),
        axis_names={"data"},
        check_vma=False,
    )
    pair = array(GRID, (H, K), None, "model"), array(GRID, (K, H), "model")
    return mapped, [pair] * 2, array(GRID, (B, N, H), "data")


def map_in_map():
    """Columns and rows along one axis, in a map along the other."""

    def rows(w, u, x):
        return lax.psum(jax.nn.gelu(x @ w) @ u, "model")

    def batch(w, u, x):
        inside = (P(None, "model"), P("model"), P())
        y = jax.shard_map(
            rows, in_specs=inside, out_specs=P(), axis_names={"model"}, check_vma=False
        )(w, u, x)
        return lax.pmean(jnp.mean(y**2, 0), "data")

    mapped = jax.shard_map(
        batch,
        mesh=GRID,
        in_specs=(P(), P(), P("data")),
        out_specs=P(),
        axis_names={"data"},
        check_vma=False,
    )
    pair = array(GRID, (H, K), None, "model"), array(GRID, (K, H), "model")
    return mapped, *pair, array(GRID, (B, N, H), "data")


def uneven():
    """A width that the devices do not divide."""

    def layer(w, u, x):
        return held(LINE, jnp.tanh(x @ w), None, "i") @ u

    return layer, array(LINE, (H, 100)), array(LINE, (100, H)), array(LINE, (B, H))


def blocks():
    """A transformer of this library, its batch divided, trained by gradient descent."""
    block = layers.transformer_block(H, is_causal=True)
    shapes = jax.eval_shape(block.init, jax.random.key(0))
    params = [jax.tree.map(lambda v: array(LINE, v.shape), shapes)] * 2

    def loss(params, x):
        for p in params:
            x = jax.vmap(block.apply, (None, 0))(p, x)
        return jnp.mean(x**2)

    return functools.partial(descend, loss), params, array(LINE, (8, N, H), "i")


CASES = {  # the program, how often XLA counts the body of its loop too few, and what is given away
    "two axes": (two_axes, 1, 0),
    "fully sharded": (fully_sharded, 1, 0),
    "sequence parallel": (sequence_parallel, 1, ()),
    "experts": (experts, 1, ()),
    "pipeline": (pipeline, 11, ()),
    "optimizer": (optimizer, 1, (0, 1)),
    "scattered state": (scattered_state, 1, (0, 1)),
    "batch norm": (batch_norm, 1, 0),
    "images": (images, 1, 0),
    "heads": (heads, 1, ()),
    "ring": (ring, 8, ()),
    "vocabulary": (vocabulary, 1, 0),
    "halfway": (halfway, 1, 0),
    "three axes": (three_axes, 1, 0),
    "partly mapped": (partly_mapped, 1, 0),
    "map in map": (map_in_map, 1, ()),
    "uneven": (uneven, 1, ()),
    "blocks": (blocks, 1, 0),
}


def main():
    for name, (make, loops, donate) in CASES.items():
        fn, *args = make()
        program = jax.jit(fn, donate_argnums=donate).lower(*args).compile()
        text, memory = program.as_text(), program.memory_analysis()
        found = cost.analyze(fn, *args, donate=donate)
        alone, sent = found.per_device, {}
        for part in found.communication:
            sent[part.kind] = sent.get(part.kind, 0) + float(part.ring_bytes.evaluate()) / loops
        assert sent == sent_by(text, trips=1), (name, sent, sent_by(text, trips=1))
        if name != "images":  # whose products are convolutions
            assert alone.matmul_flops.evaluate() / loops == products_in(text), name
        kept = memory.argument_size_in_bytes + memory.output_size_in_bytes
        taken = kept - memory.alias_size_in_bytes + memory.temp_size_in_bytes
        peak = float(alone.peak_bytes.evaluate()) / taken
        # A block of the ring is masked in a branch, whose scores XLA copies on the way out.
        assert (0.9 if name == "ring" else 0.95) <= peak <= 1.25, (name, peak)
        print(f"{name:20s} peak {peak:.2f} sends {sent}")


if __name__ == "__main__":
    main()
