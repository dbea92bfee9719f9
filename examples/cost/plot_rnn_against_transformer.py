r"""Attention costs more than recurrence beyond n = d, and is shallower beyond a dozen
========================================================================================

L layers of width d on a sequence of length n: an Elman network against a causal transformer. Their
matrix products, in a layer, are

.. math::

    W_\mathrm{rnn} = 4\,n\,d^2, \qquad
    W_\mathrm{transformer} = 24\,n\,d^2 + 4\,n^2 d, \qquad
    4\,n^2 d > 4\,n\,d^2 \iff n > d

You will see work and depth as formulas with their crossings, then the time and memory of compiled
training steps beside what the formulas predict for the same lengths.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

from equipoise import cost, layers
from equipoise.plot import COLORS, new_grid

# %%
# Formulas
# --------
# Both models are traced once with names for sizes. *In use* is one step: an RNN keeps its state,
# a transformer the keys and values of all positions so far.

DEPTH, WIDTH = 2, 32
block = {"is_causal": True}
named = {
    "RNN": layers.stack(layers.elman_rnn("d"), "L"),
    "transformer": layers.stack(layers.transformer_block("d", **block), "L"),
}
states = {"RNN": "f32[L,d]", "transformer": ("f32[L,n,1,d]", "f32[L,n,1,d]", "i32[L]")}
sized = {
    "RNN": layers.stack(layers.elman_rnn(WIDTH), DEPTH),
    "transformer": layers.stack(layers.transformer_block(WIDTH, **block), DEPTH),
}
whole = {name: cost.analyze(m.apply, m.shapes(), "f32[n,d]") for name, m in named.items()}
trained = {
    name: cost.analyze_training(m.apply, m.shapes(), "f32[n,d]") for name, m in named.items()
}
used = {name: cost.analyze(m.step, m.shapes(), states[name], "f32[d]") for name, m in named.items()}


def path(name, n):
    """Steps between the two positions that are furthest apart, in one layer."""
    layer = layers.elman_rnn(2) if name == "RNN" else layers.transformer_block(2, **block)
    params = jax.jit(layer.init)(jax.random.key(0))
    return cost.path_length(lambda x: layer.apply(params, x), jnp.ones((n, 2)))


paths = {name: [path(name, m) for m in (3, 6)] for name in named}
for name in named:
    state = cost.analyze(lambda *s: s, *jax.tree.leaves(states[name])).output_bytes
    print(f"\n{name}, L layers of width d, length n")
    for label, value in {
        "training: matrix products a sequence": trained[name].total.matmul_flops,
        "training: matrix products a token": trained[name].total.matmul_flops
        / cost.Expression("n"),
        "training: sequential operations": trained[name].total.depth,
        "training: bytes kept for the backward pass": trained[name].residual_bytes,
        "in use: matrix products a sequence, all at once": whole[name].matmul_flops,
        "in use: matrix products of token n": used[name].matmul_flops,
        "in use: sequential operations of a token": used[name].depth,
        "in use: bytes of state": state,
        "path length in a layer at n = 3, 6": paths[name],
        "parallel over positions in training": whole[name].depth.degree("n") == 0,
    }.items():
        print(f"  {label:48} {value}")

# %%
# Crossings
# ---------
# What mixes positions in attention overtakes recurrence at n = d, and the rest of its own block at
# n = 6·d. The whole block is dearer than an Elman layer at every length. Depth is the reverse.

n, d = cost.Expression("n"), cost.Expression("d")
mixing, linear = 4 * n**2 * d, 24 * n * d**2
crossings = {
    "mixing": cost.crossover(mixing, 4 * n * d**2, "n", d=WIDTH),
    "own": cost.crossover(mixing, linear, "n", d=WIDTH),
    "work": cost.crossover(whole["transformer"].flops, whole["RNN"].flops, "n", d=WIDTH, L=DEPTH),
    "depth": cost.crossover(whole["RNN"].depth, whole["transformer"].depth, "n", d=WIDTH, L=DEPTH),
}
for name, found in crossings.items():
    print(f"{name}: {found.size if found.exists else 'never'}, then {found.larger} is larger")

# %%
# Against the machine
# -------------------
# A training step, compiled, at six lengths. Exponents are slopes in log-log between the longest
# lengths, for the formula as well: at these lengths no single term has won yet. Time parts from
# work where a step is bound by the launch of its operations: at short lengths, and in the RNN's
# loop at every length, whose operations are small. Memory is a property of the compiled program,
# the same in every run; at short lengths it lies below the formula, which counts the arguments.

drawn = {
    name: jax.jit(lambda key, m=m: m.init(key, jnp.float32))(jax.random.key(0))
    for name, m in sized.items()
}
LENGTHS = np.array([16, 32, 64, 128, 256, 512])


def measured(name, length):
    """Seconds (the least of five) and bytes of scratch memory of a compiled training step."""
    model = sized[name]
    params = drawn[name]
    x = np.random.default_rng(0).normal(size=(length, WIDTH)).astype(np.float32)
    step = jax.jit(jax.grad(lambda p, x: jnp.mean(model.apply(p, x) ** 2)))
    compiled = step.lower(params, x).compile()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(compiled(params, x))
        seconds.append(time.perf_counter() - start)
    return min(seconds), compiled.memory_analysis().temp_size_in_bytes


def exponent(values):
    """The slope in log-log over the last three lengths."""
    return np.polyfit(np.log(LENGTHS[-3:]), np.log(values[-3:]), 1)[0]


def formula(expression, lengths=LENGTHS):
    """The expression at all lengths; a size that it does not name is not asked for."""
    sizes = {"d": WIDTH, "L": DEPTH}
    given = {k: v for k, v in sizes.items() if k in expression.names}
    return np.array([float(expression.evaluate(n=int(m), **given)) for m in lengths])


seconds, scratch, work, kept = {}, {}, {}, {}
for name in named:
    rows = np.array([measured(name, int(m)) for m in LENGTHS])
    seconds[name], scratch[name] = rows.T
    work[name] = formula(trained[name].total.flops)
    kept[name] = formula(trained[name].total.peak_bytes)
    print(
        f"{name:12} exponent of n: time {exponent(seconds[name]):.2f}, "
        f"work {exponent(work[name]):.2f}; scratch {exponent(scratch[name]):.2f}, "
        f"peak {exponent(kept[name]):.2f};"
        f" degrees {trained[name].total.flops.degree('n')}, "
        f"{trained[name].total.peak_bytes.degree('n')}"
    )
overhead = {name: seconds[name][1] / seconds[name][0] for name in named}
print("time at n = 32 over n = 16:", {k: round(float(v), 2) for k, v in overhead.items()})

# %%
# Figure
# ------

LONGER = 2 ** np.arange(2, 13)
figure, axes = new_grid(2, 2, size=(10, 7))
for color, name in zip(COLORS, named, strict=False):
    axes[0].loglog(LONGER, formula(whole[name].flops, LONGER), color=color, label=name)
    axes[1].loglog(LONGER, formula(whole[name].depth, LONGER), color=color, label=name)
    axes[2].loglog(LENGTHS, seconds[name], "o-", color=color, label=f"{name}, measured")
    scale = seconds[name][-1] / work[name][-1]
    axes[2].loglog(LENGTHS, work[name] * scale, "--", color=color, label="work, scaled at the end")
    axes[3].loglog(LENGTHS, scratch[name], "o-", color=color, label=f"{name}, compiled")
    axes[3].loglog(LENGTHS, kept[name], "--", color=color, label="peak bytes, formula")
share = DEPTH * formula(mixing, LONGER)
axes[0].loglog(LONGER, share, ":", color=COLORS[1], label="attention's n² part")
axes[0].axvline(WIDTH, color="gray", lw=1)
axes[0].text(WIDTH * 1.05, share[-1], "n = d", va="top", color="gray")
crossing = crossings["depth"].size
axes[1].axvline(crossing, color="gray", lw=1)
axes[1].text(crossing * 1.05, 2000, f"n = {crossing}", color="gray")
titles = (
    ("Work of a forward pass", "operations"),
    ("Longest chain of operations", "operations in sequence"),
    ("Time of a training step", "seconds"),
    ("Memory of a training step", "bytes"),
)
for ax, (title, label) in zip(axes, titles, strict=True):
    ax.set(title=title, xlabel="length n", ylabel=label)
    ax.legend()

for ax in axes[2:]:
    ax.set_xticks(LENGTHS, [str(m) for m in LENGTHS])
    ax.minorticks_off()

# %%
# Every claim, checked
# --------------------

assert str(whole["RNN"].matmul_flops) == "4*L*d^2*n"
assert whole["transformer"].matmul_flops == (cost.Expression("L") * (linear + mixing))
assert crossings["mixing"].root == WIDTH
assert crossings["own"].root == 6 * WIDTH
assert not crossings["work"].exists
assert crossings["work"].larger == "a"
assert 5 < crossings["depth"].size < 20
assert crossings["depth"].larger == "a"
assert paths == {"RNN": [3, 6], "transformer": [1, 1]}
assert whole["transformer"].depth.degree("n") == 0
assert used["RNN"].flops.degree("n") == 0
assert used["transformer"].flops.degree("n") == 1
# The transformer's memory grows faster than the RNN's, as the formula says.
assert exponent(scratch["transformer"]) > exponent(scratch["RNN"]) + 0.3
assert abs(exponent(scratch["transformer"]) - exponent(kept["transformer"])) < 0.5
