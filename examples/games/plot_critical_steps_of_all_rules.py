r"""Five update rules lose one equilibrium at five different step sizes
===================================================================

.. math:: \min_x \max_y\; \tfrac{\mu}{2} x^2 + \sigma x y - \tfrac{\mu}{2} y^2,
    \qquad \mu = \tfrac12,\; \sigma = 1

The equilibrium is the origin for all of them. You will see how far each update rule can step
before it stops attracting, and how it goes: simultaneous play spirals out at 0.8, alternating play
flips at 4/3, extragradient spirals at 1.301. The thresholds come from eigenvalues; the sweep below
finds the same ones from trajectories.
"""

# %%
# One table for all rules.

import jax.numpy as jnp
import numpy as np

from equipoise import games, plot

mu, sigma = 0.5, 1.0
game = games.zero_sum(lambda x, y: mu / 2 * x**2 + sigma * x * y - mu / 2 * y**2)
rules = {
    "simultaneous": games.simultaneous(),
    "alternating": games.alternating(),
    "extragradient": games.extragradient(),
    "optimistic": games.optimistic(),
    "consensus 0.5": games.consensus(0.5),
}
nash = (0.0, 0.0)
table = games.compare(rules, game, nash, max_step_size=3.0)
print(table)
ax = plot.critical_steps(table)

# %%
# Trajectories agree with eigenvalues.

critical = {name: table[name] for name in ("simultaneous", "alternating", "extragradient")}
sweeps = {
    name: games.sweep(
        game,
        rules[name],
        (1.0, 0.5),
        step_sizes=jnp.linspace(0.02, 1.6, 159),
        num_steps=1000,
        equilibrium=nash,
    )
    for name in critical
}
ax = plot.step_rates(sweeps, critical=critical)

# %%
# Where extragradient leaves the circle.

ax = plot.eigenvalue_paths(
    game,
    rules["extragradient"],
    nash,
    step_sizes=jnp.linspace(0, 1.6, 150),
    critical=critical["extragradient"],
)

# %%
# Every claim above, asserted. Exact thresholds: 2μ/(μ² + σ²), 2/(μ + σ), and abs(1 − w + w²) = 1.

exact = {"simultaneous": 0.8, "alternating": 4 / 3, "extragradient": 1.3010588}
for name, value in exact.items():
    np.testing.assert_allclose(critical[name].step_size, value, rtol=1e-4)
    converging = sweeps[name].step_sizes[sweeps[name].verdict == games.CONVERGES]
    assert abs(converging.max() - value) < 0.02
assert critical["simultaneous"].kind == critical["extragradient"].kind == games.NEIMARK_SACKER
assert critical["alternating"].kind == games.FLIP
assert len(np.unique(np.round(table.step_size, 3))) == len(rules)
