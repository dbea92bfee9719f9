r"""Attention costs more than recurrence beyond n = d, and is shallower beyond a dozen
========================================================================================

L layers of width d on a sequence of length n: an Elman network against a causal transformer. Their
matrix products, in a layer, are

.. math::

    W_\mathrm{rnn} = 4\,n\,d^2, \qquad
    W_\mathrm{transformer} = 24\,n\,d^2 + 4\,n^2 d, \qquad
    4\,n^2 d > 4\,n\,d^2 \iff n > d

You will see time and space of both, in training and in use, as formulas that were read off the
code; where one overtakes the other; and how many steps apart two positions are.
"""

import jax
import jax.numpy as jnp

from equipoise import attention, cost, layers
from equipoise.plot import COLORS, new_grid

# %%
# Formulas
# --------
# Both models are traced once with names for sizes. *In use* is one step: an RNN keeps its state,
# a transformer the keys and values of all positions so far.

kinds = {"RNN": layers.elman_rnn, "transformer": layers.transformer_block}
causal = {"RNN": {}, "transformer": {"is_causal": True}}
cached = "f32[L,n,1,d]", "f32[L,n,1,d]", "i32[L]"
states = {"RNN": "f32[L,d]", "transformer": attention.KVCache(*cached, ring=False)}
models = {name: layers.stack(kinds[name]("d", **causal[name]), "L") for name in kinds}
whole, trained, used, kept = {}, {}, {}, {}
for name, model in models.items():
    whole[name] = cost.analyze(model.apply, model.shapes(), "f32[n,d]")
    trained[name] = cost.analyze_training(model.apply, model.shapes(), "f32[n,d]")
    used[name] = cost.analyze(model.step, model.shapes(), states[name], "f32[d]")
    kept[name] = cost.analyze(lambda state: state, states[name]).input_bytes


def path(name, length):  # steps between the two positions that are furthest apart, in one layer
    layer = kinds[name](2, **causal[name])
    params = jax.jit(layer.init)(jax.random.key(0))
    return cost.path_length(lambda x: layer.apply(params, x), jnp.ones((length, 2)))


paths = {name: [path(name, m) for m in (3, 6)] for name in models}
n, d, L = cost.Expression("n"), cost.Expression("d"), cost.Expression("L")
rows = {
    "training, matrix products: a sequence": {m: trained[m].total.matmul_flops for m in models},
    "training, matrix products: a token": {m: trained[m].total.matmul_flops / n for m in models},
    "training, sequential operations": {m: trained[m].total.depth for m in models},
    "training, bytes kept for the backward pass": {m: trained[m].residual_bytes for m in models},
    "in use, matrix products: a sequence": {m: whole[m].matmul_flops for m in models},
    "in use, matrix products: token n": {m: used[m].matmul_flops for m in models},
    "in use, sequential operations: token n": {m: used[m].depth for m in models},
    "in use, bytes of state": kept,
    "path length in a layer at n = 3 and 6": paths,
    "parallel over positions": {m: whole[m].depth.degree("n") == 0 for m in models},
}
for label, row in rows.items():
    print(label, *(f"    {name:12} {value}" for name, value in row.items()), sep="\n")

# %%
# Crossings
# ---------
# Mixing positions by attention overtakes recurrence at n = d, and the rest of its own block at
# n = 6·d. The whole block costs more than an Elman layer at every length. Depth is the reverse.

WIDTH, DEPTH = 32, 2
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
# Figure
# ------

LENGTHS = [2**i for i in range(2, 13)]
sizes = {"d": WIDTH, "L": DEPTH}
figure, (left, right) = new_grid(1, 2, size=(10, 4))
grows = [float((L * mixing).evaluate(n=m, **sizes)) for m in LENGTHS]
left.loglog(LENGTHS, grows, ":", color=COLORS[1], label="of it what grows as n²")
for ax, quantity in ((left, "flops"), (right, "depth")):
    for color, name in zip(COLORS, models, strict=False):
        expression = getattr(whole[name], quantity)
        given = {k: v for k, v in sizes.items() if k in expression.names}
        values = [float(expression.evaluate(n=m, **given)) for m in LENGTHS]
        ax.loglog(LENGTHS, values, color=color, label=name)
    ax.set_xlabel("length n")
    ax.legend()
left.axvline(crossings["own"].root, color="gray", lw=1)
left.set(title="Beyond n = 6 d attention is most of a block", ylabel="operations")
shallow = crossings["depth"].size
right.set(title=f"Beyond n = {shallow} a transformer is shallower", ylabel="steps in sequence")
right.axvline(shallow, color="gray", lw=1)

# %%
# Every claim, checked
# --------------------

assert whole["RNN"].matmul_flops == 4 * L * d**2 * n
assert whole["transformer"].matmul_flops == L * (linear + mixing)
assert (crossings["mixing"].root, crossings["own"].root) == (WIDTH, 6 * WIDTH)
assert not crossings["work"].exists
assert 5 < crossings["depth"].size < 20
assert crossings["work"].larger == crossings["depth"].larger == "a"
assert paths == {"RNN": [3, 6], "transformer": [1, 1]}
assert [whole[m].depth.degree("n") for m in models] == [1, 0]
# What an RNN keeps and does for a token knows no n.
assert (kept["RNN"].names, kept["transformer"].degree("n")) == ({"L", "d"}, 1)
assert (used["RNN"].flops.names, used["transformer"].flops.degree("n")) == ({"L", "d"}, 1)
assert [used[m].depth.names for m in models] == [{"L"}, {"L"}]
