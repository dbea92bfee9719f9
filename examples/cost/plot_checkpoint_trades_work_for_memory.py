r"""Checkpointing keeps one array per layer, and pays one more forward pass
=======================================================================

.. math:: \text{kept} = 4 L (3 n d + d^2) \;\to\; 4 L (n d + d^2), \qquad
    \text{work} = 3 W \;\to\; 4 W

for L layers tanh(x W) · x of width d on n tokens. Reverse mode keeps what the backward pass reads.
You will see how many bytes that is, as a formula that equals what ``jax.vjp`` holds, how
``jax.checkpoint`` cuts it, and what the second forward pass costs: a third more work in products,
for two thirds less memory once n is large.
"""

# %%
# One layer, and a stack of six of them with or without checkpoints.

import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

from equipoise import cost, plot

NUM_LAYERS = 6


def layer(w, x):
    return jnp.tanh(x @ w) * x


def stack(one_layer):
    return lambda weights, x: functools.reduce(lambda x, w: one_layer(w, x), weights, x)


weights = ["f32[d,d]"] * NUM_LAYERS
plain = cost.analyze_training(stack(layer), weights, "f32[n,d]")
checkpointed = cost.analyze_training(stack(jax.checkpoint(layer)), weights, "f32[n,d]")
passes = {
    "forward": plain.forward,
    "backward": plain.backward,
    "both": plain.total,
    "both, checkpointed": checkpointed.total,
}
print(cost.compare(passes, measures=("matmul_flops", "residual_bytes")))

# %%
# The formula is what JAX keeps, at any size.


def held(n, d):
    structures = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        ([(d, d)] * NUM_LAYERS, (n, d)),
        is_leaf=lambda leaf: isinstance(leaf, tuple) and isinstance(leaf[0], int),
    )
    pullback = jax.eval_shape(lambda *args: jax.vjp(stack(layer), *args)[1], *structures)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(pullback))


# %%
# Memory against length at width 256.

kept = {
    "plain": plain.residual_bytes,
    "checkpointed": checkpointed.residual_bytes,
}
axes = plot.cost_curves(kept, "n", at=[2**k for k in range(4, 16)], d=256)
axes.set_ylabel("bytes kept for the backward pass")
plt.show()

# %%
# Every sentence above, checked.

forward = plain.forward.matmul_flops
assert plain.total.matmul_flops == 3 * forward
assert checkpointed.total.matmul_flops == 4 * forward
n, d = cost.Expression("n"), cost.Expression("d")
assert plain.residual_bytes == 4 * NUM_LAYERS * (3 * n * d + d**2)
assert checkpointed.residual_bytes == 4 * NUM_LAYERS * (n * d + d**2)
assert 3 * checkpointed.residual_bytes.leading("n") == plain.residual_bytes.leading("n")
for n, d in ((3, 2), (64, 16), (7, 32)):
    assert plain.residual_bytes.evaluate(n=n, d=d) == held(n, d)
