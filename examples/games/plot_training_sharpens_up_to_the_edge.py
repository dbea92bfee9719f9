r"""Training sharpens the loss until its learning rate is the critical one
=======================================================================

.. math:: \lambda_{\max}\bigl(P^{-1} H(x_t)\bigr) \;\nearrow\; \frac{c}{\eta}, \qquad
    c = 2, \quad 2(1 + \beta), \quad 2\,\frac{1 + \beta_1}{1 - \beta_1}

Full-batch training at a constant learning rate η moves to where the loss is sharper, until η is the
critical learning rate of the point that it has reached (Cohen et al. 2021, 2022). You will see the
sharpness along training by gradient descent, by momentum and by Adam, each with its own edge: 2/η,
3.8/η and 38/η at β = 0.9. Gradient descent stays at the edge. Adam, whose sharpness is the
curvature over the root of its second moment, is thrown back from it and climbs again. Momentum
comes near before the loss is learned.
"""

# %%
# A perceptron that learns a wave.

from operator import itemgetter

import jax
import jax.numpy as jnp
import numpy as np
import optax

from equipoise import games, plot

inputs = jnp.linspace(-1.0, 1.0, 24)[:, None]
targets = jnp.sin(5.0 * inputs)
keys = jax.random.split(jax.random.key(0), 3)
start = {
    "first": 2.0 * jax.random.normal(keys[0], (1, 12)),
    "second": jax.random.normal(keys[1], (12, 12)) / 12**0.5,
    "last": jax.random.normal(keys[2], (12, 1)) / 48**0.5,
}


def loss(params):
    hidden = jnp.tanh(jnp.tanh(inputs @ params["first"]) @ params["second"])
    return jnp.mean((hidden @ params["last"] - targets) ** 2)


# %%
# Each optimizer at a rate of 1, and the learning rate that it trains with. The critical one is
# asked every 100 steps, with the state that the optimizer is in.

RUNS = {
    "gradient descent": (optax.sgd(1.0), 0.1),
    "momentum": (optax.sgd(1.0, momentum=0.9), 0.13),
    "Adam": (optax.adam(1.0), 0.01),
}
NUM_LOOKS = 20


def path(optimizer, rate):
    """Parameters and states every 100 steps, the first after 10 steps."""

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return (jax.tree.map(lambda x, u: x + rate * u, params, updates), state), None

    def look(carry, _):
        return jax.lax.scan(step, carry, length=100)[0], carry

    begun, _ = jax.lax.scan(step, (start, optimizer.init(start)), length=10)
    return jax.lax.scan(look, begun, length=NUM_LOOKS)[1]


steps = 10 + 100 * np.arange(NUM_LOOKS)
found = {}
for name, (optimizer, rate) in RUNS.items():
    reached = jax.jit(path, static_argnums=(0, 1))(optimizer, rate)
    looks = [
        games.critical_learning_rate(loss, params, optimizer, optimizer_state=state)
        for params, state in (jax.tree.map(itemgetter(k), reached) for k in range(NUM_LOOKS))
    ]
    found[name] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *looks)

# %%
# Sharpness climbs to the edge and stays there: what is sharper throws training back.

figure, axes = plot.new_grid(1, 3, size=(14.0, 4.2))
for axis, (name, (_, rate)) in zip(axes, RUNS.items(), strict=True):
    plot.sharpness(found[name], steps=steps, learning_rate=rate, ax=axis)
    axis.set_title(f"{name}. {axis.get_title(loc='left')}", loc="left", fontsize=10)

# %%
# Every claim above, asserted.

thresholds = {"gradient descent": 2.0, "momentum": 3.8, "Adam": 38.0}
shares = {}
for name, (_, rate) in RUNS.items():
    critical, sharpness = np.asarray(found[name].learning_rate), np.asarray(found[name].sharpness)
    if name != "Adam":  # whose first moment is still corrected at the first points
        np.testing.assert_allclose(critical * sharpness, thresholds[name], rtol=1e-3)
    np.testing.assert_allclose(critical[5:] * sharpness[5:], thresholds[name], rtol=1e-3)
    shares[name] = share = rate / critical
    lowest = share.argmin()
    assert share[lowest] < 0.85
    assert share[lowest:].max() > 1.1 * share[lowest]
    assert share[-8:].max() < 1.15
assert shares["gradient descent"][-8:].min() > 0.8
assert shares["Adam"].max() > 0.95
assert shares["Adam"][-8:].min() < 0.95
assert np.median(shares["Adam"][-8:]) > 0.75
assert shares["momentum"].max() > 0.55
