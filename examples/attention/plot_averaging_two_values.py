r"""One query can average two values, in any proportion
=====================================================

With orthonormal keys, q = β(k_a + k_b) reads both values alike:

.. math:: \alpha_a = \alpha_b = \frac{e^\beta}{2 e^\beta + n - 2}, \qquad
    \Bigl| o - \tfrac{v_a + v_b}{2} \Bigr| = \frac{n - 2}{2 e^\beta + n - 2}
    \Bigl| \bar v - \tfrac{v_a + v_b}{2} \Bigr|,

where v̄ is the mean of the other values. With any other keys, and any proportion, the least-norm
query is a small quadratic program.

**What you will see.** Left, the output in the plane of the values: as β grows it walks straight
from the mean of all values to the midpoint of v_a and v_b. Middle, the error is the formula to
rounding. Right, weights of lookups of random keys in proportions from 0 : 1 to 1 : 0: they are
exact.
"""

# %%
import jax
import jax.numpy as jnp
import numpy as np

from equipoise import attention
from equipoise.plot import new_grid

n = 8
angles = 2 * jnp.pi * jnp.arange(n) / n
values = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
both = jnp.zeros(n).at[jnp.array([0, 2])].set(0.5)
betas = jnp.linspace(0.0, 8.0, 33)

found = jax.jit(jax.vmap(lambda beta: attention.lookup_query(jnp.eye(n), both, sharpness=beta)))(
    betas
)
outputs = found.weights @ values
midpoint = both @ values
error = jnp.linalg.norm(outputs - midpoint, axis=1)
rest = values[both == 0].mean(axis=0)
formula = (n - 2) / (2 * jnp.exp(betas) + n - 2) * jnp.linalg.norm(rest - midpoint)

# %%
# Keys that are not orthogonal, and every proportion p : 1 − p.
keys = jax.random.normal(jax.random.key(0), (n, n))
proportions = jnp.linspace(0.02, 0.98, 25)
mixed = jax.jit(
    jax.vmap(
        lambda p: attention.lookup_query(
            keys, jnp.zeros(n).at[0].set(p).at[2].set(1 - p), sharpness=9.0
        )
    )
)(proportions)
share = mixed.weights[:, 0] / (mixed.weights[:, 0] + mixed.weights[:, 2])

# %%
figure, (plane, middle, right) = new_grid(1, 3, size=(12.0, 3.8))
plane.plot(*values.T, "o", color="black", label="values")
plane.plot(*outputs.T, ".-", label="output, β from 0 to 8")
plane.plot(*midpoint, "*", markersize=12, label="midpoint of v₀ and v₂")
plane.set(aspect="equal", xlabel="first feature", ylabel="second feature")
plane.set_ylim(-2.1, 1.2)
plane.legend(loc="lower center")
plane.set_title("The output moves to the midpoint")
middle.plot(betas, error, "o", label="measured")
middle.plot(betas, formula, color="black", linewidth=1, label="formula")
middle.set(xlabel="β", ylabel="distance to the midpoint", yscale="log")
middle.legend()
middle.set_title("Its distance follows the formula")
right.plot(proportions, mixed.weights[:, 0], "o", label="weight of key 0")
right.plot(proportions, mixed.weights[:, 2], "s", label="weight of key 2")
right.plot(proportions, proportions, color="black", linewidth=1)
right.set(xlabel="wanted weight of key 0", ylabel="attained weight")
right.legend()
right.set_title("Any proportion can be had")

# %%
# Every claim above.
alpha = jnp.exp(betas) / (2 * jnp.exp(betas) + n - 2)
np.testing.assert_allclose(found.weights[:, 0], alpha, rtol=1e-5)
np.testing.assert_allclose(found.weights[:, 0], found.weights[:, 2], rtol=1e-5)
np.testing.assert_allclose(error, formula, rtol=1e-3, atol=1e-6)
np.testing.assert_allclose(outputs[0], values.mean(axis=0), atol=1e-6)
direction = (midpoint - outputs[0]) / jnp.linalg.norm(midpoint - outputs[0])
along = (outputs - outputs[0]) @ direction
np.testing.assert_allclose(outputs, outputs[0] + along[:, None] * direction, atol=1e-6)
assert np.all(np.diff(along) > 0)
assert np.all(mixed.feasible)
np.testing.assert_allclose(share, proportions, atol=2e-5)
assert np.all(mixed.weights[:, 0] + mixed.weights[:, 2] > 0.999)
