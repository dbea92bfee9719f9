r"""Copying one of n values needs a margin of log n
=================================================

A query reads the value of key j with weight

.. math:: \alpha_j \ge \frac{1}{1 + (n - 1) e^{-\Delta}}, \quad \Delta = \min_{i \ne j} (s_j - s_i).

So a lookup that is right to 99.9 % needs Δ = log(n − 1) + 6.9: the margin grows with the
*logarithm* of the number of keys. But in d dimensions the keys crowd, the gap that a unit query
opens shrinks, and the norm of the query pays for it.

**What you will see.** Left, the weight that goes elsewhere against the margin: every lookup of
random keys lies on or below the bound, and orthonormal keys lie on it. Right, the norm that 99.9 %
costs as keys are added in 16 dimensions: it rises faster than the margin. And a key inside the
hull of the others cannot be copied at any norm, which the library reports with a proof.
"""

# %%
# Random keys in 16 dimensions, and the least-norm query of each margin.
import jax
import jax.numpy as jnp
import numpy as np

from equipoise import attention
from equipoise.plot import new_grid

n, d = 12, 16
keys = jax.random.normal(jax.random.key(0), (n, d)) / jnp.sqrt(d)
margins = jnp.linspace(0.5, 12.0, 24)
copy_first = jnp.eye(n)[0]
lookup = jax.jit(
    jax.vmap(
        lambda keys, margin: attention.lookup_query(keys, copy_first, sharpness=margin),
        in_axes=(None, 0),
    )
)
random = lookup(keys, margins)
orthonormal = lookup(jnp.eye(n, d), margins)
bound = 1 - jax.vmap(
    lambda margin: attention.lookup_error_bound(copy_first, keys, margin=margin).leaked_weight
)(margins)

# %%
# The price of 99.9 % as keys are added. Copies of a key that competes already change nothing, so
# they stand for the keys that are not there yet.
counts = np.array([2, 4, 8, 16, 32, 64])
many = jax.random.normal(jax.random.key(1), (64, d)) / jnp.sqrt(d)
needed = np.array(
    [attention.lookup_sharpness(jnp.eye(int(c))[0], leaked_weight=1e-3) for c in counts]
)


@jax.jit
@jax.vmap
def price(count, margin):
    present = jnp.arange(64)[:, None] < count
    return attention.lookup_query(
        jnp.where(present, many, many[1]), jnp.eye(64)[0], sharpness=margin
    ).norm


norms = np.array(price(counts, needed))

# %%
# A key in the middle of others is out of reach, and the certificate shows between which.
middle = keys.at[0].set(keys[1:4].mean(axis=0))
stuck = jax.tree.map(lambda x: x[0], lookup(middle, margins))
print(attention.LookupReason(int(stuck.reason)).sentence, stuck.certificate.round(3))

# %%
figure, (left, right) = new_grid(1, 2, size=(9.5, 3.8))
left.plot(margins, 1 - random.weights[:, 0], "o", label="random keys")
left.plot(margins, 1 - orthonormal.weights[:, 0], "x", label="orthonormal keys")
left.plot(margins, 1 - bound, color="black", linewidth=1, label="bound")
left.axhline(1e-3, color="#888888", linestyle=":", linewidth=1)
left.set(xlabel="margin Δ (nats)", ylabel="weight elsewhere", yscale="log")
left.set_title(f"Copying one of {n} keys")
left.legend()
right.plot(counts, norms, "o-", label="norm of the query")
right.plot(counts, needed, "s-", label="margin, log(n − 1) + 6.9")
right.set(xlabel="keys n", ylabel="for 99.9 %", xscale="log", yscale="log")
right.set_xticks(counts, counts)
right.set_yticks([5, 10, 20], [5, 10, 20])
right.minorticks_off()
right.set_title(f"The price in {d} dimensions")
right.legend()

# %%
# Every claim above.
assert np.all(random.feasible)
assert np.all(random.weights[:, 0] >= bound * (1 - 1e-5))
np.testing.assert_allclose(orthonormal.weights[:, 0], bound, rtol=1e-4)
np.testing.assert_allclose(needed, np.log(counts - 1.0) + 6.907, atol=1e-3)
reached = np.isfinite(norms)
assert np.all(np.diff(norms[reached]) >= -1e-4 * norms[reached][:-1])
assert norms[reached][-1] / norms[0] > needed[reached][-1] / needed[0]
assert not stuck.feasible
between = jnp.zeros(n).at[1:4].set(-1 / 3).at[0].set(1.0)
np.testing.assert_allclose(stuck.certificate / stuck.certificate[0], between, atol=1e-4)
