r"""A price that reacts too fast never settles: the safe dual learning rate
=======================================================================

.. math:: \min_{x \in \mathbb{R}^5} \max_{\lambda \ge 0}\;
    \sum_i \tfrac{c_i}{2} x_i^2 + \lambda \Bigl(d - \sum_i x_i\Bigr)

Five generators with quadratic costs must meet a demand d. The multiplier λ is the price of power;
it rises while supply is short and is never negative. Gradient descent in x with step η and ascent
in λ with step rη, projected on λ ≥ 0: which r is safe at a given η? You will see the exact border
of the safe region in the plane of both learning rates for two update rules, and runs on both
sides of it. Above a certain dual rate no primal step at all rescues the simultaneous rule.
"""

# %%
# The problem, its solution in closed form, and the rules.

import jax
import jax.numpy as jnp
import numpy as np
import optax

from equipoise import games, plot

c, demand = jnp.array([1.0, 1.5, 2.0, 3.0, 5.0]), 4.0
game = games.zero_sum(lambda x, price: jnp.sum(c * x**2) / 2 + price * (demand - jnp.sum(x)))
price = demand / jnp.sum(1 / c)
solution = (price / c, price)
keep = (None, optax.projections.projection_non_negative)
rules = {
    "simultaneous": games.simultaneous(projections=keep),
    "alternating": games.alternating(projections=keep),
}

# %%
# For each ratio r of dual to primal rate, the largest common step: a point (η*, rη*) of the border.

ratios = jnp.geomspace(0.02, 30.0, 40)


def border(rule):
    def largest_step(r):
        lost = games.critical_step_size(
            game, rule, solution, max_step_size=10.0, step_ratios=(1.0, r)
        )
        return lost.step_size

    return jax.jit(jax.vmap(largest_step))(ratios)


borders = {name: border(rule) for name, rule in rules.items()}

# %%
# Runs at 0.9 and 1.1 of the border, all ratios at once, from a start with nothing produced.


def verdicts(rule, border):
    def one(step, r):
        return games.sweep(
            game,
            rule,
            (jnp.zeros(5), 0.0),
            step_sizes=step * jnp.array([0.9, 1.1]),
            num_steps=4000,
            step_ratios=(1.0, r),
            equilibrium=solution,
        ).verdict

    return jax.jit(jax.vmap(one))(border, ratios)


runs = {name: verdicts(rule, borders[name]) for name, rule in rules.items()}

# %%
# The safe region is below and to the left of each curve.

ax = plot.new_axes(None, size=(6.5, 4.2))
for name, line in zip(rules, ("-", "--"), strict=True):
    ax.semilogy(borders[name], ratios * borders[name], line, linewidth=2, label=name)
ax.set(xlabel="primal learning rate η", ylabel="dual learning rate rη")
ax.set_title("Safe learning rates lie below and left of each curve", loc="left")
ax.legend()

# %%
# Every claim above, asserted.

np.testing.assert_allclose(jnp.sum(solution[0]), demand, rtol=1e-6)
for name in rules:
    assert np.all(runs[name][:, 0] == games.CONVERGES), name
    assert np.all(runs[name][:, 1] != games.CONVERGES), name
# With a slow price every rule is limited by the steepest cost: 2/c_max for gradient descent.
np.testing.assert_allclose(borders["simultaneous"][0], 2 / 5.0, rtol=0.02)
highest = float(jnp.max(ratios * borders["simultaneous"]))
print(f"No primal step makes simultaneous play safe above a dual rate of {highest:.3f}.")
assert highest < float(jnp.max(ratios * borders["alternating"]))
