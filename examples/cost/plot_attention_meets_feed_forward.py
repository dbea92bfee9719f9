r"""Attention costs more than its feed-forward layer from length 2d on
==================================================================

.. math:: W_{\text{attention}} = 8 n d^2 + 4 n^2 d, \qquad
    W_{\text{feed-forward}} = 16 n d^2, \qquad n^* = 2 d

A transformer block holds both. You will see their work derived from the code, as polynomials in
the length n and the width d, and the length from which on the products of attention are the larger
part: exactly twice the width, whatever the width. What softmax, bias and activation add moves the
crossover of all operations by less than two percent.
"""

# %%
# Two layers, written as anyone would write them.

import jax
import matplotlib.pyplot as plt

from equipoise import cost, plot


def attention(params, x):
    q, k, v = (x @ params[name] for name in "qkv")
    weights = jax.nn.softmax(q @ k.T / 8.0)
    return weights @ v @ params["o"]


def feed_forward(params, x):
    return jax.nn.relu(x @ params["w1"]) @ params["w2"]


of_attention = cost.analyze(attention, {name: "f32[d,d]" for name in "qkvo"}, "f32[n,d]")
of_feed_forward = cost.analyze(feed_forward, {"w1": "f32[d,4*d]", "w2": "f32[4*d,d]"}, "f32[n,d]")
layers = {"attention": of_attention, "feed-forward": of_feed_forward}

# %%
# Side by side, as formulas and at one size.

print(cost.compare(layers, measures=("matmul_flops", "flops", "depth")))
print(cost.compare(layers, n=1024, d=512))

# %%
# The products cross at n = 2d; all operations a little earlier.

matmuls = {name: layer.matmul_flops for name, layer in layers.items()}
plot.cost_curves(matmuls, "n", at=[2**k for k in range(6, 15)], d=512)
plt.show()

products = [
    cost.crossover(of_attention.matmul_flops, of_feed_forward.matmul_flops, "n", d=width)
    for width in (64, 512, 4096)
]
everything = cost.crossover(of_attention.flops, of_feed_forward.flops, "n", d=512)
print([found.root for found in products], everything.root)

# %%
# The number of steps does not grow with the length: both layers are parallel along it.

n, d = cost.Expression("n"), cost.Expression("d")
assert of_attention.matmul_flops == 8 * n * d**2 + 4 * n**2 * d
assert of_feed_forward.matmul_flops == 16 * n * d**2
assert [found.root for found in products] == [128.0, 1024.0, 8192.0]
assert all(found.larger == "a" for found in products)
assert 0.98 * 1024 < everything.root < 1024
assert of_attention.depth.degree("n") == of_feed_forward.depth.degree("n") == 0
