r"""A GAN has a critical learning rate, and it can be read off where training ends
==============================================================================

.. math::

    \min_\theta \max_\varphi\; \mathbb{E}\,\ell(D_\varphi(x)) +
    \mathbb{E}\,\ell(-D_\varphi(G_\theta(z)))
    - \tfrac{\gamma}{2}\, \mathbb{E}\,\lVert \nabla_x D_\varphi(x) \rVert^2
    + \tfrac{\kappa}{2} (\lVert \theta \rVert^2 - \lVert \varphi \rVert^2), \quad \ell = \log \sigma

Two small networks play on fixed batches of data and of noise. The penalties isolate an equilibrium,
which training finds. There the spectrum of one update, the optimizer's state included, gives the
critical learning rate: you will see training converge just below it and not just above it.
"""

from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import optax

from equipoise import games, plot

jax.config.update("jax_enable_x64", val=True)

# %%
# The networks, the data, the game:

keys = jax.random.split(jax.random.key(0), 5)
centers = jnp.where(jax.random.bernoulli(keys[0], 0.5, (32, 1)), 1.0, -1.0) * jnp.array([1.0, 0.5])
data = centers + 0.2 * jax.random.normal(keys[1], (32, 2))
noise = jax.random.normal(keys[2], (32, 2))
GAMMA, KAPPA = 0.3, 0.02


def weights(key, outputs, hidden=4):
    w, v = (0.7 * jax.random.normal(k, (2, hidden)) for k in jax.random.split(key))
    return {"w": w, "b": jnp.zeros(hidden), "v": v.T[:, :outputs]}


def network(p, x):
    return jnp.tanh(x @ p["w"] + p["b"]) @ p["v"]


def payoff(generator, discriminator):
    score = jax.vmap(jax.value_and_grad(lambda x: network(discriminator, x)[0]))
    fake, _ = score(jax.vmap(lambda z: network(generator, z))(noise))
    real, slopes = score(data)
    value = jnp.mean(jax.nn.log_sigmoid(real)) + jnp.mean(jax.nn.log_sigmoid(-fake))
    penalty = GAMMA / 2 * jnp.mean(jnp.sum(slopes**2, axis=1))
    size = optax.tree.norm(generator, squared=True) - optax.tree.norm(discriminator, squared=True)
    return value - penalty + KAPPA / 2 * size


# %%
# Training, then Newton's method for the last digits:

game, start = games.zero_sum(payoff), (weights(keys[3], 2), weights(keys[4], 1))


@jax.jit
def train(z):
    path = games.simulate(game, games.alternating(), z, step_size=1.0, num_steps=8000)
    trained = jax.tree.map(lambda leaf: leaf[-1], path)
    found = games.find_equilibrium(game, trained)
    return found, optax.tree.norm(jax.tree.map(jnp.subtract, found.players, trained))


found, moved = train(start)
print(f"residual {found.residual:.1e}, Newton moved by {moved:.1e}")

# %%
# The critical learning rates of four rules there. Adam is given ``eps_root``: without it its update
# has no derivative where gradients vanish.

optimizers = {"SGD": optax.sgd(1.0), "Adam": optax.adam(1.0, b1=0.5, b2=0.9, eps_root=1e-2)}
rules = {}
for name, optimizer in optimizers.items():
    rules[f"{name}, simultaneous"] = games.from_optax(optimizer)
    rules[f"{name}, alternating"] = games.from_optax(optimizer, order=(0, 1))
factors = jnp.array([0.95, 1.05])


def judge(rule):
    step = games.critical_step_size(game, rule, found.players, max_step_size=20.0)
    near = jax.tree.map(lambda leaf: leaf + 1e-3, found.players)

    def distances(rate):
        path = games.simulate(game, rule, near, step_size=rate, num_steps=2000)
        return jax.vmap(optax.tree.norm)(jax.tree.map(lambda a, c: a - c, path, found.players))

    return step, jax.jit(jax.vmap(distances))(factors * step.step_size)


with ThreadPoolExecutor(2) as pool:  # they compile side by side
    judged = dict(zip(rules, pool.map(judge, rules.values()), strict=True))

figure, axes = plot.new_grid(2, 2, size=(9, 5.5))
for ax, (name, (step, curves)) in zip(axes, judged.items(), strict=True):
    print(f"{name:20} critical rate {step.step_size:.4f}")
    for color, factor, curve in zip(plot.COLORS, factors, curves, strict=False):
        ax.semilogy(curve, color=color, label=f"{factor:.2f} of it")
    ax.set(title=f"{name}: critical rate {step.step_size:.3g}", xlabel="step", ylabel="distance")
    ax.legend()

# %%
# Every claim, checked:

assert found.converged
assert moved < 1e-6  # training had arrived
for name, (_, (below, above)) in judged.items():
    assert below[-1] < 0.1 * below[0], name
    assert not above[-1] < above[0], name

# %%
# Of many eigenvalues one leaves the circle first. Small steps are blue, the largest 1.1 × critical:

rule, (critical, _) = rules["SGD, alternating"], judged["SGD, alternating"]
etas = jnp.linspace(0.02, 1.1, 28) * critical.step_size
plot.eigenvalue_paths(game, rule, found.players, step_sizes=etas, critical=critical)
