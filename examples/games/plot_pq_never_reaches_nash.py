r"""Descent–ascent on pq returns after six steps, at no step size to Nash
=====================================================================

.. math:: \min_p \max_q\; p\,q, \qquad q \leftarrow q + \eta p, \quad p \leftarrow p - \eta q

Play starts at (1, 1) with step size 1, the maximizer first. The positions after each move repeat
after six steps. It is tempting to blame the step size. You will see that it is not to blame:
alternating play circles the equilibrium at every step size below 2, simultaneous play leaves it at
every step size, and both are read off the spectrum of the update. The six steps are the period of a
rotation by 60°, which the step size 1 happens to make.
"""

# %%
# Six steps, and back at the start.

import jax.numpy as jnp
import numpy as np

from equipoise import games, plot

game = games.zero_sum(lambda p, q: p * q)
maximizer_first = games.alternating(order=(1, 0))
start, nash = (1.0, 1.0), (0.0, 0.0)
p, q = games.simulate(game, maximizer_first, start, step_size=1.0, num_steps=6)
print("p", p)
print("q", q)

# %%
# No step size cures it: neither rule converges for any, by the spectrum and by simulation.

rules = [maximizer_first, games.simultaneous()]
table = games.compare(game, rules, nash, max_step_size=4.0)
print(table)

steps = jnp.linspace(0.05, 1.95, 39)
sweeps = [
    games.sweep(game, rule, start, step_sizes=steps, num_steps=512, equilibrium=nash)
    for rule in rules
]

# %%
# Every step size below 2 turns by its own angle; those of a whole fraction of a turn are cycles.

eta = 2 * np.sin(np.pi / 12)
step, _, _ = games.update_map(game, maximizer_first, eta)
twelve = games.period(step, jnp.ones(2), num_transient=0)
paths = {
    "alternating": games.simulate(game, maximizer_first, start, step_size=1.0, num_steps=12),
    "simultaneous": games.simulate(game, rules[1], start, step_size=1.0, num_steps=5),
}
ax = plot.phase_plane(game, paths, equilibrium=nash)

# %%
# Every claim above, asserted.

np.testing.assert_array_equal(q, [1, 2, 1, -1, -2, -1, 1])
np.testing.assert_array_equal(p, [1, -1, -2, -1, 1, 2, 1])
assert all(step.step_size == 0 for step in table.steps)
np.testing.assert_allclose(table.steps[0].neutral_step_size, 2, rtol=1e-3)  # a Jordan block: √ε
assert table.steps[1].neutral_step_size == 0
assert np.all(sweeps[0].verdict == games.NEUTRAL)
assert np.all(sweeps[1].verdict == games.DIVERGES)
assert games.sweep(game, maximizer_first, start, step_sizes=jnp.ones(1), num_steps=60).period == 6
assert twelve == 12
