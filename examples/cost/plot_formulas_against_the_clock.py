r"""A formula's degree is the slope of the memory, and of the time once work outweighs launches
============================================================================================

One layer of an Elman network and one block of a causal transformer, trained on n positions. For a
cost that is a polynomial in n the slope in log-log approaches its degree,

.. math::

    \frac{\partial \log c(n)}{\partial \log n} \to \deg_n c

You will see compiled training steps at seven lengths beside the formulas of the same lengths, and
where the two part: short steps are bound by launches, not work.
"""

import concurrent.futures
import time

import jax
import jax.numpy as jnp
import numpy as np

from equipoise import cost, layers
from equipoise.plot import COLORS, new_grid

WIDTH, LENGTHS = 32, 2 ** np.arange(4, 11)
models = {
    "RNN": layers.elman_rnn(WIDTH),
    "transformer": layers.transformer_block(WIDTH, is_causal=True),
}
formulas = {
    name: cost.analyze_training(m.apply, m.shapes(), f"f32[n,{WIDTH}]").total
    for name, m in models.items()
}

# %%
# Measuring
# ---------
# Two compilers work side by side; the clock runs alone. Scratch memory is a property of the
# compiled program and the same in every run, seconds are the least of ten.


def compiled_steps(name):
    model = models[name]
    params = jax.jit(lambda key: model.init(key, jnp.float32))(jax.random.key(0))
    step = jax.jit(jax.grad(lambda p, x: jnp.mean(model.apply(p, x) ** 2)))
    inputs = [np.random.default_rng(0).normal(size=(n, WIDTH)).astype("f") for n in LENGTHS]
    return [(step.lower(params, x).compile(), params, x) for x in inputs]


def seconds(step, params, x):
    start = time.process_time()
    jax.block_until_ready(step(params, x))
    return time.process_time() - start


with concurrent.futures.ThreadPoolExecutor(2) as pool:
    programs = dict(zip(models, pool.map(compiled_steps, models), strict=True))
# Of the processor, which another program on the machine does not change; the best of ten rounds.
rounds = [{m: [seconds(*s) for s in steps] for m, steps in programs.items()} for _ in range(10)]
measured, scratch, work, peak = {}, {}, {}, {}
for name, steps in programs.items():
    measured[name] = np.min([times[name] for times in rounds], axis=0)
    scratch[name] = np.array([s.memory_analysis().temp_size_in_bytes for s, _, _ in steps], float)
    work[name] = np.array([float(formulas[name].flops.evaluate(n=int(n))) for n in LENGTHS])
    peak[name] = np.array([float(formulas[name].peak_bytes.evaluate(n=int(n))) for n in LENGTHS])

# %%
# Slopes
# ------
# Over the three longest lengths, for formulas as well: no single term has won there yet. Time parts
# from work where a step is bound by launches: at short lengths, and in the RNN's loop at every
# length, since its operations are small.


def slope(values, which=slice(-3, None)):
    """Exponent of n."""
    return np.polyfit(np.log(LENGTHS[which]), np.log(values[which]), 1)[0]


print(f"{'slope (degree) in n':20} {'work':10} {'time':6} {'peak bytes':11} scratch bytes")
for name, total in formulas.items():
    print(
        f"{name:20} {slope(work[name]):.2f} ({total.flops.degree('n')})   "
        f"{slope(measured[name]):.2f}   {slope(peak[name]):.2f} ({total.peak_bytes.degree('n')})"
        f"    {slope(scratch[name]):.2f}"
    )
short = {name: slope(measured[name], slice(0, 3)) for name in models}
print("slope of the time over the three shortest:", {k: f"{v:.2f}" for k, v in short.items()})

# %%
# Figure
# ------

figure, (left, right) = new_grid(1, 2, size=(10, 4))
for color, name in zip(COLORS, models, strict=False):
    left.loglog(LENGTHS, measured[name], "o-", color=color, label=f"{name}, measured")
    rate = measured[name][-1] / work[name][-1]
    left.loglog(LENGTHS, work[name] * rate, "--", color=color, label="work, scaled at the end")
    right.loglog(LENGTHS, scratch[name], "o-", color=color, label=f"{name}, compiled")
    right.loglog(LENGTHS, peak[name], "--", color=color, label="peak bytes, formula")
left.set(title="Short steps are bound by launches", ylabel="processor seconds of a training step")
right.set(title="Memory follows the formula", ylabel="bytes of a training step")
for ax in (left, right):
    ax.set_xlabel("length n")
    ax.set_xticks(LENGTHS, map(str, LENGTHS))
    ax.minorticks_off()
    ax.legend(fontsize=8)

# %%
# Every claim, checked
# --------------------
# The clock of a shared machine is noisy, so its slopes have wide bounds; memory is exact.

for name in models:
    assert abs(slope(scratch[name]) - slope(peak[name])) < 0.3
assert short["RNN"] < 0.7 * slope(work["RNN"], slice(0, 3))
assert slope(scratch["transformer"]) > slope(scratch["RNN"]) + 0.3
assert abs(slope(measured["transformer"]) - slope(work["transformer"])) < 0.9
assert [formulas[name].flops.degree("n") for name in models] == [1, 2]
