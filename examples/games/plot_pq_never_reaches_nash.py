r"""Descent–ascent on pq returns after six steps, at no step size to Nash
=====================================================================

.. math:: \min_p \max_q\; p\,q, \qquad q \leftarrow q + \eta p, \quad p \leftarrow p - \eta q

Play starts at (1, 1) with step size 1, the maximizer first, and is back after six steps: a rotation
by 60°. It is tempting to blame the step size. You will see that it is not to blame: alternating
play circles the equilibrium at every step size below 2, simultaneous play leaves it at every step
size, and both are read off the spectrum of the update, as are the step sizes below which other
rules do converge.
"""

import jax
import jax.numpy as jnp
import numpy as np

from equipoise import games, plot

jax.config.update("jax_enable_x64", val=True)

game = games.zero_sum(lambda p, q: p * q)
start, nash = (1.0, 1.0), (0.0, 0.0)

# %%
# Six steps, and back at the start
# --------------------------------

turns = games.alternating(order=(1, 0))  # q moves first
p, q = games.simulate(game, turns, start, step_size=1.0, num_steps=600)
conserved = p**2 + q**2 + p * q
length = games.period(games.update_map(game, turns, 1.0).step, jnp.ones(2))
print("\n4  Descent-ascent on f(p, q) = pq from (1, 1), step 1, q moves first")
print("   step" + "".join(f"{t:5d}" for t in range(7)))
print("   q   " + "".join(f"{x:5.0f}" for x in q[:7]))
print("   p   " + "".join(f"{x:5.0f}" for x in p[:7]))
print(f"   back after {length} steps: p² + q² + pq stays {conserved[0]:.0f}, but is 0 at Nash")
np.testing.assert_array_equal(q[:7], [1, 2, 1, -1, -2, -1, 1])
np.testing.assert_array_equal(p[:7], [1, -1, -2, -1, 1, 2, 1])
np.testing.assert_array_equal(conserved, 3.0)
assert length == 6

# %%
# No step size cures it
# ---------------------
# Rules, with the step size up to which each attracts and that up to which it stays bounded.

gamma, beta = 0.5, -0.25
limit = 2 * gamma / (1 + gamma**2)
rules = {
    "simultaneous": (games.simultaneous(), 0, 0),
    "alternating": (games.alternating(), 0, 2),
    "simultaneous, momentum 0.5": (games.momentum(0.5), 0, 0),
    "alternating, momentum −0.25": (games.momentum(beta, order=(0, 1)), *[2 * (1 + beta)] * 2),
    "extragradient": (games.extragradient(), 1, 1),
    "optimistic": (games.optimistic(), 1 / np.sqrt(3), 1 / np.sqrt(3)),
    "consensus γ = 0.5": (games.consensus(gamma), limit, limit),
    "symplectic λ = 0.5": (games.symplectic_adjustment(gamma), limit, limit),
    "proximal point": (games.proximal_point(), np.inf, np.inf),
    "competitive": (games.competitive(), np.inf, np.inf),
}
etas = np.linspace(0.01, 3, 300)
drawn = ("simultaneous", "alternating", "extragradient", "optimistic", "proximal point")


def radii(rule):
    radius = jax.vmap(lambda eta: games.spectral_radius(game, rule, nash, step_size=eta))
    return np.asarray(jax.jit(radius)(etas))


radius = {name: radii(rules[name][0]) for name in drawn}
steps = [
    games.critical_step_size(game, rule, nash, max_step_size=10.0) for rule, _, _ in rules.values()
]
print("   the usual answer, a smaller step, is wrong: least spectral radius over steps in (0, 3]:")
least = {name: radius[name].min() for name in ("simultaneous", "alternating")}
print("   " + ", ".join(f"{n} {r:.6f}" for n, r in least.items()) + ": neither converges at any")
assert all(r > 1 - 1e-12 for r in least.values())
print(f"   {'rule':28}{'converges below':>16}{'bounded up to':>16}   eigenvalue there")
for (name, (_, attracts, bounded)), step in zip(rules.items(), steps, strict=True):
    value = f"{step.eigenvalue:.3f}" if 0 < step.neutral_step_size < np.inf else "-"
    print(f"   {name:28}{step.step_size:16.6f}{step.neutral_step_size:16.6f}   {value}")
    np.testing.assert_allclose(step.step_size, attracts, atol=1e-9)
    np.testing.assert_allclose(step.neutral_step_size, bounded, atol=1e-9)

# %%
figure, (left, right) = plot.new_grid(1, 2, size=(11.5, 4.0))
played = {"alternating": (turns, 1.0, 6), "simultaneous": (rules["simultaneous"][0], 0.5, 12)}
played |= {"extragradient": (rules["extragradient"][0], 0.5, 40)}
for name, (rule, step, num_steps) in played.items():
    path = games.simulate(game, rule, start, step_size=step, num_steps=num_steps)
    (line,) = left.plot(*path, "o-", markersize=3, label=f"{name}, step {step}")
    corners = np.array(path)[:, :2].T
    arrow = {"arrowstyle": "-|>", "color": line.get_color(), "shrinkA": 0}
    left.annotate("", corners.mean(axis=0), corners[0], arrowprops=arrow)
    away = [float(jnp.hypot(*(x[i] for x in path))) for i in (0, -1)]
    assert (
        np.sign(np.round(np.log(away[1] / away[0]), 6))
        == ({"alternating": 0, "simultaneous": 1, "extragradient": -1}[name])
    )
left.plot(0, 0, "k*", markersize=10, label="Nash")
left.set(xlabel="p", ylabel="q", aspect="equal")
left.set_title("Taking turns circles Nash, moving at once leaves it")
for name, values in radius.items():
    right.plot(etas, values, label=name)
right.axhline(1, color="black", linewidth=1, linestyle=":", label="ρ = 1")
right.set(xlabel="step size η", ylabel="spectral radius ρ", ylim=(0.4, 2.2))
right.set_title("Only below ρ = 1 does play converge")
for ax in (left, right):
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
