r"""Beyond the critical step training hovers or jumps away, and three derivatives tell which
=========================================================================================

.. math:: c = \Bigl( \frac{L'''}{L''} \Bigr)^2 - \frac{L''''}{3 L''}, \qquad
    r^2 = \frac{\varepsilon}{c}, \qquad \varepsilon = (\eta - \eta^*)\, L''

Gradient descent on two losses of the same curvature, and so of the same critical step 2/L″. One is
crooked at its minimum, c > 0: beyond the step descent settles on a cycle of two that grows from
nothing, and hovers there. The other steepens, c < 0: no cycle holds it beyond the step, and before
it an unstable one bounds the starts that come back. You will see both distances, as the normal form
predicts them and as descent plays.
"""

# %%
# The same critical step, and two normal forms.

import jax
import jax.numpy as jnp
import numpy as np

from equipoise import games, plot

descent = games.simultaneous()
losses = {
    "crooked": games.general_sum(lambda x: x**2 / 2 + x**3 / 3),
    "steepening": games.general_sum(lambda x: x**2 / 2 + x**4 / 2),
}
forms = {}
for name, game in losses.items():
    lost = games.critical_step_size(game, descent, (0.0,), max_step_size=9.0)
    forms[name] = games.normal_form(game, descent, (0.0,), lost)
    print(name, forms[name])

# %%
# What descent does: where it settles beyond the step, and from how far it returns before it.

beyond, before = jnp.linspace(2.002, 2.1, 25), jnp.linspace(1.9, 1.998, 25)


def settled(eta):
    (x,) = games.simulate(losses["crooked"], descent, (0.01,), step_size=eta, num_steps=3000)
    return jnp.abs(x[-1] - x[-2]) / 2


starts = jnp.linspace(0.0, 0.3, 601)[1:]


def farthest(eta):
    """The largest start from which descent on the steepening loss comes back."""

    def returns(start):
        swept = games.sweep(
            losses["steepening"],
            descent,
            (start,),
            step_sizes=eta,
            num_steps=2000,
            equilibrium=(0.0,),
        )
        return swept.verdict == games.CONVERGES

    return starts[jnp.sum(jax.vmap(returns)(starts)) - 1]


hovers, returns = jax.vmap(settled)(beyond), jax.lax.map(farthest, before)

# %%
# Left the soft loss, right the hard one: a solid curve attracts, a dashed one repels.

figure, (left, right) = plot.new_grid(1, 2, size=(11.0, 4.2))
plot.cycle_amplitude(forms["crooked"], step_sizes=beyond, played=hovers, ax=left)
plot.cycle_amplitude(forms["steepening"], step_sizes=before, played=returns, ax=right)
left.set_ylabel("distance at which descent hovers")
right.set_ylabel("farthest start that returns")

# %%
# Every claim above, asserted.

for form, coefficient in zip(forms.values(), (4.0, -4.0), strict=True):
    np.testing.assert_allclose([form.coefficient, form.step_size], [coefficient, 2], rtol=1e-4)
assert forms["crooked"].outcome == games.Outcome.SOFT
assert forms["steepening"].outcome == games.Outcome.HARD
# The next order of a distance is relative to ε, here up to 0.1; starts are 5e-4 apart.
np.testing.assert_allclose(hovers, forms["crooked"].amplitude(beyond), rtol=0.1)
np.testing.assert_allclose(returns, forms["steepening"].amplitude(before), rtol=0.1, atol=1e-3)
assert not forms["steepening"].amplitude(beyond).any()
