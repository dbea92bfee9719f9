r"""Attention is a look-up: one head copies, and it takes two to average noisy keys
===============================================================================

On n orthonormal keys the query β Σ k_a over m wanted ones reads

.. math:: \text{leaked weight} = \frac{n - m}{m\,e^{\beta} + n - m}

elsewhere. You will see the margin β that leaves 99.9 % on one key (a copy) and on two (an average),
with the errors that the formula predicts; and what happens when the length of one of two keys
fluctuates: one head that asks for both swings between the values, two heads hardly move.
"""

import jax
import jax.numpy as jnp
import numpy as np

from equipoise import attention, plot

jax.config.update("jax_enable_x64", val=True)

# %%
# Copying and averaging
# ---------------------

n = 16
keys, values = jnp.eye(n), jax.random.normal(jax.random.key(1), (n, 4))
targets = {"copy v_0": keys[0], "average v_0, v_1": (keys[0] + keys[1]) / 2}


@jax.jit
def read(target):
    """β(k_a + k_b), with β the margin that leaks 0.1 % at most; one key alone copies."""
    margin = attention.lookup_sharpness(target, leaked_weight=1e-3)
    query = margin * (target > 0) @ keys
    output = attention.dot_product_attention(
        query[None, None], keys[:, None], values[:, None], scale=1.0
    )[0, 0]
    m = jnp.sum(target > 0)
    leak = (n - m) / (m * jnp.exp(margin) + n - m)
    others = jnp.where(target > 0, 0.0, 1.0) @ values / (n - m)
    exact = leak * jnp.linalg.norm(others - target @ values)
    error = jnp.linalg.norm(output - target @ values)
    return attention.lookup_query(keys, target, sharpness=margin), margin, error, exact


print(f"\n2  Attention as look-up: {n} orthonormal keys, scale 1, 99.9 % of the weight")
for name, target in targets.items():
    found, margin, error, exact = read(target)
    m = np.sum(target > 0)
    print(
        f"   {name:17} margin β = {margin:.4f}, weight {found.weights @ (target > 0):.6f}, "
        f"error {error:.6e} (formula {exact:.6e})"
    )
    np.testing.assert_allclose(margin, np.log((n - m) / m * 999.0), rtol=1e-12)
    np.testing.assert_allclose(found.weights @ (target > 0), 0.999, rtol=1e-12)
    np.testing.assert_allclose(found.margin, margin, rtol=1e-9)
    np.testing.assert_allclose(error, exact, rtol=1e-9)

# %%
# A noisy key
# -----------
# Key a is g·μ_a with g ~ N(1, 1/2). Draws measure the variance of its weight; an integral has it.

mu = jnp.eye(2)
noise = jnp.zeros((2, 2, 1)).at[0, 0, 0].set(jnp.sqrt(0.5))
g = np.linspace(-5, 7, 20_001)
density = np.exp(-((g - 1) ** 2)) / np.sqrt(np.pi) * (g[1] - g[0])


def swing(beta, weight, queries):
    """Variance of the weight on key a: exact, measured, and the error of the measurement."""
    exact = density @ (weight - density @ weight) ** 2
    found = attention.noisy_lookup(
        mu, beta * queries, jax.random.key(2), noise=noise, num_samples=200_000
    )
    return exact, found.variance[0], found.variance_standard_error[0]


@jax.jit
def heads(beta):
    split = (jax.nn.sigmoid(beta * g) + jax.nn.sigmoid(-beta)) / 2
    return {
        "one head": swing(beta, jax.nn.sigmoid(beta * (g - 1)), mu.sum(0, keepdims=True)),
        "two heads": swing(beta, split, mu),
    }


print("   noisy key a: variance of the weight on a, measured ± standard error (exact)")
betas, measured = (1.0, 5.0, 20.0), {"one head": [], "two heads": []}
for beta in betas:
    line = f"      β = {beta:<4.0f}"
    for name, (exact, value, error) in heads(beta).items():
        measured[name].append((value, error, exact))
        line += f"  {name} {value:.5f} ± {error:.5f} ({exact:.5f})"
        assert abs(value - exact) < 4 * error + 1e-6
    print(line)

# %%
figure, (left, right) = plot.new_grid(1, 2, size=(9.5, 3.8))
margins = np.linspace(0, 14, 200)
for index, m in enumerate((4, 16, 256)):
    leaks = 1 / (1 + np.exp(margins) / (m - 1))
    left.semilogy(margins, leaks, color=plot.COLORS[index], label=f"{m} keys")
left.axhline(1e-3, color="black", linewidth=1, linestyle=":", label="0.1 %")
left.set(xlabel="margin of the score (nats)", ylabel="weight on other keys")
left.set_title("99.9 % takes a margin of log(n − 1) + 6.9")
for index, (name, rows) in enumerate(measured.items()):
    value, error, exact = np.transpose(rows)
    right.errorbar(betas, value, 4 * error, fmt="o", color=plot.COLORS[index], label=name)
    right.plot(betas, exact, "--", color=plot.COLORS[index], label=f"{name}, exact")
right.set(xlabel="sharpness β", ylabel="variance of the weight on a")
right.set_title("Two heads average noisy keys, one head swings")
for ax in (left, right):
    ax.legend()
