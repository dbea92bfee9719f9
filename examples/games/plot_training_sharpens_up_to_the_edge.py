r"""Training sharpens the loss until its learning rate is the critical one
=======================================================================

.. math:: \lambda_{\max}\bigl(P^{-1} H(x_t)\bigr) \;\nearrow\; \frac{c}{\eta}, \qquad
    c = 2, \quad 2(1 + \beta), \quad 2\,\frac{1 + \beta_1}{1 - \beta_1}

Full-batch training of a small network at a constant learning rate η moves to where the loss is
sharper: the largest curvature grows until η is the critical learning rate of the point reached
(Cohen et al. 2021, 2022). You will see the sharpness along training by gradient descent, momentum
and Adam, each against its own edge c/η; that of Adam is the curvature over the root of its second
moment. Gradient descent stays at the edge. Momentum and Adam, whose memory carries them on, are
thrown back from it, and climb again.
"""

# %%
# A perceptron that learns a wave.

import jax
import jax.numpy as jnp
import numpy as np
import optax

from equipoise import games, plot

inputs = jnp.linspace(-1.0, 1.0, 24)[:, None]
targets = jnp.sin(5.0 * inputs)
keys = jax.random.split(jax.random.key(0), 3)
start = [
    jax.random.normal(keys[0], (1, 24)) * 2.0,
    jax.random.normal(keys[1], (24, 24)) / 24**0.5,
    jax.random.normal(keys[2], (24, 1)) / 24**0.5,
]


def loss(params):
    first, second, last = params
    return jnp.mean((jnp.tanh(jnp.tanh(inputs @ first) @ second) @ last - targets) ** 2)


# %%
# Each optimizer at a rate of 1, the learning rate that it trains with, and how long it trains.

runs = {
    "gradient descent": (optax.sgd(1.0), 0.08, 1600),
    "momentum": (optax.sgd(1.0, momentum=0.9), 0.12, 1600),
    "Adam": (optax.adam(1.0), 0.01, 1600),
}
NUM_LOOKS = 16


def trained(optimizer, rate, num_steps):
    """Parameters, states and losses at the looks, the first a while after the start."""

    def step(carry, _):
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        return (jax.tree.map(lambda x, u: x + rate * u, params, updates), state), value

    def look(carry, _):
        carry, values = jax.lax.scan(step, carry, length=num_steps // NUM_LOOKS)
        return carry, (carry, values[-1])

    return jax.lax.scan(look, (start, optimizer.init(start)), length=NUM_LOOKS)[1]


def critical(optimizer, params, state):
    return games.critical_learning_rate(
        loss, params, optimizer, optimizer_state=state, method="matrix_free"
    )


def followed(optimizer, rate, num_steps):
    """Sharpness, its edge at this rate, and loss along training."""
    path, losses = trained(optimizer, rate, num_steps)
    found = jax.lax.map(lambda reached: critical(optimizer, *reached), path)
    return found.sharpness, found.learning_rate * found.sharpness / rate, losses


sharpness, edges, losses = {}, {}, {}
for name, (optimizer, rate, num_steps) in runs.items():
    seen = jax.jit(followed, static_argnums=(0, 2))(optimizer, rate, num_steps)
    sharpness[name], edges[name], losses[name] = map(np.asarray, seen)

# %%
# The sharpness of each run, and the edge at which its learning rate is critical.

figure, axes = plot.new_grid(1, 3, size=(13.0, 4.2))
for axis, (name, (_, _, num_steps)) in zip(axes, runs.items(), strict=True):
    steps = num_steps / NUM_LOOKS * np.arange(1, NUM_LOOKS + 1)
    axis.plot(steps, sharpness[name], marker="o", label="largest curvature")
    axis.plot(steps, edges[name], linestyle="--", label="edge, c/η")
    axis.set(title=name, xlabel="training step", ylim=(0, None))
    axis.legend(loc="lower right")
axes[0].set_ylabel("sharpness")

# %%
# Every claim above, asserted.

ratios = {name: sharpness[name] / edges[name] for name in runs}
thresholds = {"gradient descent": 2.0, "momentum": 3.8, "Adam": 38.0}
for name, (_, rate, _) in runs.items():
    np.testing.assert_allclose(edges[name] * rate, thresholds[name], rtol=1e-3)
    assert ratios[name][0] < 0.7
    assert 0.9 < ratios[name].max() < 1.15
    assert losses[name][-1] < losses[name][0]
np.testing.assert_allclose(ratios["gradient descent"][3:], 1.0, atol=0.05)
for name in ("momentum", "Adam"):
    since = ratios[name][np.argmax(ratios[name] > 0.9) :]
    assert since.min() < 0.85
    assert since[np.argmin(since) :].max() > 0.85
