r"""A stable equilibrium of the Dirac GAN attracts only a speck at large steps
==========================================================================

.. math:: f(\theta, \psi) = \ell(\theta\psi) + \ell(0) - \tfrac{\gamma}{2} \psi^2, \qquad
    \ell(t) = -\log(1 + e^{-t})

The smallest GAN: the generator is a point θ, the discriminator a slope ψ, with a gradient penalty
γ. At γ = 1 the spectrum says that simultaneous play converges for every step size below 4. That is
true near the equilibrium and only there. You will see the basin of attraction at the step size
3.92: a start at (0.02, 0.02) converges, one at (0.05, 0.05) does not.
"""

# %%
# What the spectrum says.

import jax
import jax.numpy as jnp
import numpy as np

from equipoise import games, plot

gamma, eta = 1.0, 3.92
game = games.zero_sum(lambda theta, psi: jax.nn.log_sigmoid(theta * psi) - gamma / 2 * psi**2)
rule = games.simultaneous()
lost = games.critical_step_size(game, rule, (0.0, 0.0), max_step_size=10.0)
print(lost)

# %%
# What the plane says: the basin at a step size that is 2 % below the threshold.

step, _, _ = games.update_map(game, rule, eta)
axes = [jnp.linspace(-0.06, 0.06, 150), jnp.linspace(-0.06, 0.06, 150)]
found = games.basins(step, axes, num_steps=3000)
print(found)
ax = plot.basins(found, axes, labels=("generator θ", "discriminator ψ"))
verdicts = [
    games.sweep(
        game, rule, (x, x), step_sizes=jnp.array([eta]), num_steps=3000, equilibrium=(0.0, 0.0)
    ).verdict[0]
    for x in (0.02, 0.05)
]

# %%
# Every claim above, asserted.

np.testing.assert_allclose(lost.step_size, 4, rtol=1e-2)  # two eigenvalues meet: √ε
assert verdicts[0] == games.CONVERGES
assert verdicts[1] != games.CONVERGES
home = found.labels[75, 75]
assert home >= 1
np.testing.assert_allclose(found.attractors[home - 1], 0, atol=1e-3)
share = float(found.fractions[home + 1])
print(f"{share:.1%} of the window is attracted")
assert 0 < share < 0.5
