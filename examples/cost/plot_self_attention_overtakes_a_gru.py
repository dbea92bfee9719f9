r"""Self-attention overtakes a GRU at n = d in work, and later by the clock
========================================================================

.. math:: W_\mathrm{GRU} = 12\,n\,d^2, \qquad W_\mathrm{attention} = 8\,n\,d^2 + 4\,n^2 d

cross at n = d. If an operation of the GRU takes r times as long, because its positions wait for
each other, the times cross at n = (3 r − 2) d. You will see the growth of a GRU and a transformer
as formulas that were read off the code, both crossings, and which layers read across tokens.
"""

import functools
import timeit
import types

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from equipoise import attention, cost, layers, plot


def self_attention(d, **options):  # of one head, the scores written out
    layer = attention.multi_head_attention(d, 1)
    apply = functools.partial(layer.apply, implementation="plain", **options)
    return types.SimpleNamespace(init=layer.init, apply=apply, shapes=layer.shapes)


models = {"RNN": layers.gru, "transformer": layers.transformer_block}
causal = {"RNN": {}, "transformer": {"is_causal": True}}
cached = "f32[L,n,1,d]", "f32[L,n,1,d]", "i32[L]"
state = {"RNN": "f32[L,d]", "transformer": attention.KVCache(*cached, ring=False)}
used, trained, once = {}, {}, {}
for name, layer in models.items():
    model, walk = (layers.stack(layer("d", **k), "L") for k in ({}, causal[name]))
    used[name] = cost.analyze(model.apply, model.shapes(), "f32[n,d]")
    trained[name] = cost.analyze_training(model.apply, model.shapes(), "f32[n,d]")
    once[name] = cost.analyze(walk.step, walk.shapes(), state[name], "f32[d]")
rows = {
    "work in use, sequence": {m: used[m].flops.leading("n", "d") for m in models},
    "work in use, one token": {m: once[m].flops.leading("n", "d") for m in models},
    "work in training": {m: trained[m].total.flops.leading("n", "d") for m in models},
    "bytes of state in use": {m: cost.analyze(lambda s: s, state[m]).input_bytes for m in models},
    "bytes kept in training": {m: trained[m].residual_bytes.leading("n", "d") for m in models},
    "sequential operations": {m: used[m].depth for m in models},
}
degrees = [[v[m].degree("n") if "n" in v[m].names else 0 for m in models] for v in rows.values()]
assert degrees == [[1, 2], [0, 1], [1, 2], [0, 1], [1, 2], [1, 0]]
print("1  RNN (GRU) against transformer: L layers of width d on n positions, leading terms")
for row, value in {"": dict(zip(models, models, strict=True)), **rows}.items():
    print(f"   {row:24}{value['RNN']!s:26}{value['transformer']}")

# %%
# Growth by the clock. The best of five rounds counts, as whatever else the machine does only adds.
d, lengths = 256, np.array([128, 256, 512, 1024, 2048])
timed = {"GRU": layers.gru, "self-attention": self_attention}
timed |= {"transformer block": layers.transformer_block}


def compiled(layer):
    params = jax.jit(lambda key: layer.init(key, jnp.float32))(jax.random.key(0))
    inputs = [jnp.sin(jnp.arange(n * d, dtype=jnp.float32)).reshape(n, d) for n in lengths]
    return [(jax.jit(layer.apply).lower(params, x).compile(), params, x) for x in inputs]


def seconds(run, *args):
    return timeit.timeit(lambda: jax.block_until_ready(run(*args)), number=1)


programs = [compiled(layer(d)) for layer in timed.values()]
rounds = [[[seconds(*p) for p in program] for program in programs] for _ in range(6)]
clock = dict(zip(timed, np.min(rounds[1:], axis=0), strict=True))
print(f"   exponent of growth from n = {lengths[0]} to {lengths[-1]} at d = {d}")
products, work = {}, {}
for m, layer in timed.items():
    products[m] = cost.analyze(layer("d").apply, layer("d").shapes(), "f32[n,d]").matmul_flops
    work[m] = np.array([float(products[m].evaluate(n=int(n), d=d)) for n in lengths])
    slopes = np.polyfit(np.log(lengths), np.log([clock[m], work[m]]).T, 1)[0]
    print(f"      {m:17} measured time {slopes[0]:.2f}, predicted work {slopes[1]:.2f}")
rate = {m: clock[m][2] / work[m][2] for m in timed}  # seconds an operation, at n = 512
r = rate["GRU"] / rate["self-attention"]
equal = cost.crossover(products["self-attention"], products["GRU"], "n", d=d).root
assert equal == d
ahead = np.log(clock["self-attention"] / clock["GRU"])
measured, predicted = np.exp(np.interp(0, ahead, np.log(lengths))), (3 * r - 2) * d
print(f"   in matrix products self-attention outgrows the GRU at n = {equal:.0f} = d; an operation")
print(f"   of the GRU takes r = {r:.2f} times as long (at n = 512), which moves it to (3 r − 2) d:")
print(f"   self-attention takes longer than the GRU from n = {measured:.0f} on,", end="")
print(f" predicted {predicted:.0f} from work and speed")

# %%
# Which of twelve output positions read which input positions, found from the code itself.
kinds = {"attention": "all-to-all", "causal attention": "lower triangular"}
kinds |= {"feed-forward": "identity", "layer norm": "identity", "GRU": "lower triangular"}
sublayers = [self_attention(8), self_attention(8, is_causal=True), layers.feed_forward(8)]
sublayers += [layers.layer_norm(8), layers.gru(8)]
print("   reads across tokens")
with plot.styled():
    left, right = (figure := plt.figure(figsize=(10.5, 4.2))).subfigures(1, 2)
    ax, panels = left.subplots(), right.subplots(2, 3).ravel()
for panel, (name, kind), layer in zip(panels, kinds.items(), sublayers, strict=False):
    params = jax.jit(layer.init)(jax.random.key(0))
    found = cost.dependencies(lambda x, p=params, f=layer: f.apply(p, x), jnp.zeros((12, 8)))
    print(f"      {name:17} {found.kind}")
    assert (found.kind, found.confirmed) == (kind, True)
    panel.imshow(found.structural, cmap="Blues", vmin=0, vmax=1.4)
    panel.set(title=name, xlabel="input", ylabel="output", xticks=[], yticks=[])
    panel.grid(visible=False)
panels[-1].set_axis_off()
right.suptitle("Attention and recurrence read (blue) across tokens, the rest does not", fontsize=10)
for color, m in zip(plot.COLORS, timed, strict=False):
    ax.loglog(lengths, clock[m], "o-", color=color, label=m)
    ax.loglog(lengths, work[m] * rate[m], "--", color=color)
ax.axvline(measured, color="black", linewidth=1, linestyle=":", label="crossing")
ax.set_xscale("log", base=2)
ax.set(xlabel="length n (positions)", ylabel="time of one layer (s)")
ax.set_title(f"Self-attention overtakes the GRU at n ≈ {measured:.0f} (d = {d})")
ax.legend(loc="upper left", title="dashed: by their work")
