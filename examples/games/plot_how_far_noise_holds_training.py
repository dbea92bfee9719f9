r"""Larger steps hold training farther away, up to a step that no batch survives
============================================================================

Stochastic gradient descent near a minimum, on batches of B of n rows,

.. math::

    z_{t+1} = z_t - \eta \nabla f_B(z_t), \qquad
    \mathbb E\,\lVert z_t - z^* \rVert^2 \to \operatorname{tr} C(\eta)

does not come to rest: the batches keep it at a distance that grows with the step size η, and
becomes infinite at the mean-square critical step, before the critical step 2/λ of the full data.
Both are computed exactly, and the distance is played.
"""

# %%
# Linear regression on 40 rows, in batches of 4.
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from equipoise import games, plot

random = np.random.default_rng(0)
inputs = random.normal(size=(40, 3)) * np.array([1.0, 0.7, 0.4])
targets = inputs @ np.array([1.0, -1.0, 2.0]) + random.normal(size=40)


def loss(weights, row):
    x, y = row
    return (x @ weights - y) ** 2 / 2


game = games.sampled(loss, (inputs, targets), batch_size=4)
rule = games.simultaneous()
best = games.find_equilibrium(game, (jnp.zeros(3),)).players

# %%
# The floor at many step sizes, the step at which it ends, and that of the full data.
critical = games.mean_square_critical_step_size(game, rule, best, max_step_size=5.0)
full = games.critical_step_size(game, rule, best, max_step_size=5.0)
print(critical)
etas = jnp.linspace(0.1, 0.98, 14) * critical.step_size
floors = jax.vmap(lambda eta: games.noise_floor(game, rule, best, step_size=eta))(etas)

# %%
# Sixty runs at each step size up to three quarters of the critical one: nearer to it rare runs
# carry most of the variance.
few = np.asarray(etas) < 0.75 * float(critical.step_size)


def squared_distance(eta, key):
    (path,) = games.simulate(game, rule, best, step_size=eta, num_steps=400, key=key)
    return jnp.mean(jnp.sum((path[100:] - best[0]) ** 2, axis=1))


keys = jax.random.split(jax.random.key(0), 60)
squares = jax.lax.map(
    lambda eta: jnp.mean(jax.vmap(lambda key: squared_distance(eta, key))(keys)), etas[few]
)
played = np.full(len(etas), np.nan)
played[few] = np.sqrt(squares)

plot.noise_floors(floors, step_sizes=etas, critical=critical, played=played)
plt.show()

# %%
# Every claim.
distance = np.asarray(floors.distance)
assert np.all(np.diff(distance) > 0)
assert critical.step_size < full.step_size
beyond = games.noise_floor(game, rule, best, step_size=1.01 * critical.step_size)
assert np.isinf(beyond.distance)
assert beyond.verdict == games.DIVERGES
np.testing.assert_allclose(played[few], distance[few], rtol=0.05)
