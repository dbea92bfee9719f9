"""How long ten programs take, against the bound that is known before they run.

Run with ``python -m tests.benchmarks.bench_roofline [--save]``. The rates are those of this
machine, the best of measurements before, between and after the programs, so that a program may be
below its bound by no more than such measurements differ. Counts are compared with XLA's first.
"""

import json
import time

import jax
import jax.numpy as jnp

from equipoise import cost, layers
from tests.benchmarks import _report

REPEATS = 7
NOISE = 0.15  # of the rates, between one measurement of the machine and the next
BLOCK = layers.transformer_block("8*k", num_heads=8, is_causal=True)


def mlp(params, x):
    return jax.nn.relu(x @ params["a"]) @ params["b"]


def loss(params, x):
    return jnp.mean(mlp(params, x) ** 2)


def attention(q, k, v):
    return jax.nn.softmax(q @ k.mT / 8, -1) @ v


def momentum(p, m, g):
    m = 0.9 * m + g
    return p - 0.1 * m, m


def elementwise(x):
    return jnp.tanh(x) * 2 + 1


def convolution(k, x):
    return jax.lax.conv(x, k, (1, 1), "SAME")


def block_loss(params, x):
    return jnp.mean(jax.vmap(BLOCK.apply, (None, 0))(params, x) ** 2)


MLP = {"a": "f32[d,4*d]", "b": "f32[4*d,d]"}
LONG = "f32[n]"
PROGRAMS = {
    "product": (jnp.matmul, ["f32[n,n]"] * 2, {"n": 2048}),
    "product with a vector": (jnp.matmul, ["f32[n,n]", "f32[n]"], {"n": 8192}),
    "network": (mlp, [MLP, "f32[n,d]"], {"n": 2048, "d": 512}),
    "gradient of a network": (jax.grad(loss), [MLP, "f32[n,d]"], {"n": 2048, "d": 512}),
    "attention": (attention, ["f32[8,n,64]"] * 3, {"n": 1024}),
    "convolution": (convolution, ["f32[c,c,3,3]", "f32[8,c,64,64]"], {"c": 64}),
    "gradient of a transformer block": (
        jax.grad(block_loss),
        [BLOCK.shapes(), "f32[4,n,8*k]"],
        {"n": 512, "k": 64},
    ),
    "momentum": (momentum, [LONG] * 3, {"n": 2**24}),
    "elementwise": (elementwise, [LONG], {"n": 2**25}),
    "sum": (jnp.sum, [LONG], {"n": 2**26}),
}


def numbers(args, sizes):
    """Arrays of these shapes."""
    keys = iter(jax.random.split(jax.random.key(0), 100))

    def of(text):
        found = text[text.index("[") + 1 : -1].split(",")
        return jax.random.normal(next(keys), tuple(int(eval(s, {}, sizes)) for s in found)) * 0.05

    return jax.tree.map(of, tuple(args))


def seconds(run, args):
    jax.block_until_ready(args)
    start = time.perf_counter()
    jax.block_until_ready(run(*args))
    return time.perf_counter() - start


def measured(fn, args):
    """Seconds of each run but the first; results that can take the place of an argument do."""
    given = (0, 1) if fn is momentum else 0 if fn is elementwise else ()
    run = jax.jit(fn, donate_argnums=given)
    return [seconds(run, jax.tree.map(jnp.copy, args)) for _ in range(REPEATS + 1)][1:]


def best(devices):
    """The device at the largest rates that were measured."""
    return cost.Device(
        name=devices[0].name,
        flops=max(d.flops for d in devices),
        byte_flops=max(d.byte_flops for d in devices),
        memory=devices[0].memory,
        bandwidth=max(d.bandwidth for d in devices),
    )


def products(fn, args):
    """FLOPs as XLA counts them."""
    counts = jax.jit(fn).lower(*args).cost_analysis()
    return counts["flops"] + counts.get("transcendentals", 0)


def main():
    devices, times, counted = [cost.measure_device(2048, repeats=3)], {}, {}
    for name, (fn, shapes, sizes) in PROGRAMS.items():
        counted[name] = cost.analyze(fn, *shapes)
        args = numbers(shapes, sizes)
        ratio = float(counted[name].flops.evaluate(**sizes)) / products(fn, args)
        assert 0.95 < ratio < 1.05, (name, ratio)
        times[name] = measured(fn, args)
        devices.append(cost.measure_device(2048, repeats=3))
    device, rows = best(devices), []
    for name, (_, _, sizes) in PROGRAMS.items():
        bound = cost.roofline(counted[name], device, **sizes)
        found = _report.of(times[name])
        ratio = found["seconds"] / bound.seconds
        said = {"name": name, "bound": bound.seconds, "by": bound.bound_by, "ratio": ratio}
        print(json.dumps(said | found), flush=True)
        assert min(times[name]) > (1 - NOISE) * bound.seconds, name
        row = _report.Row(name, "measured", ours=True, ratio=ratio, note=bound.bound_by, **found)
        rows.append(row)
    _report.save("roofline", rows)


if __name__ == "__main__":
    main()
