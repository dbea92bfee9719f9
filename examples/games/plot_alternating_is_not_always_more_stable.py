r"""Alternating play is the less stable one where a player's own curvature exceeds the coupling
===========================================================================================

.. math:: \eta^*_{\text{sim}} = \frac{2\mu}{\mu^2 + \sigma^2}, \qquad
    \eta^*_{\text{alt}} = \frac{2}{\mu + \sigma}

for the game μ/2·x² + σxy − μ/2·y². A common belief is that taking turns always stabilizes. You
will see both thresholds computed from the spectrum over the curvature μ: they cross at μ = σ, and
to the right of it simultaneous play may take the larger steps. The slopes of both curves come with
them, by differentiating the critical step itself.
"""

# %%
# The critical step over the players' own curvature, and its derivative, in one compiled call.

import jax
import jax.numpy as jnp
import numpy as np

from equipoise import games, plot

sigma = 1.0


def critical(rule):
    def of_curvature(mu):
        game = games.zero_sum(lambda x, y: mu / 2 * x**2 + sigma * x * y - mu / 2 * y**2)
        return games.critical_step_size(game, rule, (0.0, 0.0), max_step_size=8.0).step_size

    return jax.jit(jax.vmap(jax.value_and_grad(of_curvature)))


mus = jnp.linspace(0.2, 2.4, 23)
simultaneous, simultaneous_slope = critical(games.simultaneous())(mus)
alternating, alternating_slope = critical(games.alternating())(mus)

# %%
# Left of the crossing turns help, right of it they hurt.

ax = plot.new_axes(None, size=(6.5, 4.0))
ax.plot(mus, simultaneous, label="simultaneous")
ax.plot(mus, alternating, label="alternating")
ax.axvline(sigma, color="black", linewidth=0.8, linestyle="--")
ax.set(xlabel="curvature μ of each player's own loss (σ = 1)", ylabel="critical step size η*")
ax.set_title("Turns help below μ = σ and hurt above", loc="left")
ax.legend()

# %%
# Every claim above, asserted.

np.testing.assert_allclose(simultaneous, 2 * mus / (mus**2 + sigma**2), rtol=1e-4)
np.testing.assert_allclose(alternating, 2 / (mus + sigma), rtol=1e-4)
assert np.all((alternating > simultaneous) == (mus < sigma))
exact_slope = 2 * (sigma**2 - mus**2) / (mus**2 + sigma**2) ** 2
apart = np.abs(mus - sigma) > 0.05
np.testing.assert_allclose(simultaneous_slope[apart], exact_slope[apart], rtol=2e-3)
np.testing.assert_allclose(alternating_slope, -2 / (mus + sigma) ** 2, rtol=2e-3)
