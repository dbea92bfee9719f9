r"""A mean-field normal is too narrow, by a known factor
====================================================

For a normal posterior with precision :math:`\Lambda`, the best mean-field normal has the right mean
and the variances

.. math::

    \operatorname{Var}_q(z_i) = \frac{1}{\Lambda_{ii}} \le (\Lambda^{-1})_{ii}
    = \operatorname{Var}_p(z_i).

You will see a regression on two nearly collinear predictors. Mean-field reports standard
deviations that are less than half of the true ones, exactly as the formula says; the full-rank fit
has them right, and its bound is the log evidence. The gap between the two bounds is the
Kullback–Leibler divergence of the two normals.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from equipoise import plot, vi

# %%
# A posterior that is known
# -------------------------
rng = np.random.default_rng(1)
first = rng.normal(size=50)
x = np.stack([first, first + 0.35 * rng.normal(size=50)], axis=1)
y = x @ np.array([1.0, 0.5]) + rng.normal(size=50)
precision = x.T @ x + np.eye(2) / 4
covariance = np.linalg.inv(precision)
mean = covariance @ x.T @ y
gram = np.eye(50) + 4 * x @ x.T
evidence = -0.5 * (
    50 * np.log(2 * np.pi) + np.linalg.slogdet(gram)[1] + y @ np.linalg.solve(gram, y)
)


def log_density(beta):
    likelihood = jax.scipy.stats.norm.logpdf(jnp.asarray(y, jnp.float32), x @ beta, 1.0)
    return jnp.sum(likelihood) + jnp.sum(jax.scipy.stats.norm.logpdf(beta, 0.0, 2.0))


# %%
# The best normal of each family
# ------------------------------
narrow_sd = 1 / np.sqrt(np.diag(precision))
families = {"mean-field": vi.mean_field(jnp.zeros(2)), "full-rank": vi.full_rank(jnp.zeros(2))}
best = {
    "mean-field": families["mean-field"].init(position=mean, scale=narrow_sd),
    "full-rank": families["full-rank"].init(position=mean, scale=np.linalg.cholesky(covariance)),
}


def estimator(family):
    def bound(params, key):
        return vi.elbo(
            log_density,
            family,
            params,
            key,
            num_samples=512,
            gradient="sticking_the_landing",
            draws="quasi_random",
        )

    return jax.jit(bound)


bounds = {name: estimator(f)(best[name], jax.random.key(0)) for name, f in families.items()}
slopes = {
    name: vi.gradient_variance(estimator(f), best[name], jax.random.key(1), num_repeats=50)
    for name, f in families.items()
}
gap = vi.kl_divergence(
    families["mean-field"], best["mean-field"], families["full-rank"], best["full-rank"]
)

draws = rng.multivariate_normal(mean, covariance, 2000)
ax = plot.posterior_pair(
    draws,
    normals={"mean-field": (mean, np.diag(narrow_sd**2)), "full-rank": (mean, covariance)},
    labels=("first coefficient", "second coefficient"),
)
plt.show()

# %%
# What was claimed
# ----------------
true_sd = np.sqrt(np.diag(covariance))
assert np.all(narrow_sd < 0.5 * true_sd)
# Both are stationary points of their bound: the mean gradient is 0 within five standard errors.
for name, slope in slopes.items():
    leaves = zip(*map(jax.tree.leaves, (slope.mean, slope.variance)), strict=True)
    for g, v in leaves:
        assert np.all(np.abs(g) < 5 * np.sqrt(v / 50) + 1e-2), name
np.testing.assert_allclose(bounds["full-rank"].value, evidence, rtol=1e-4)
difference = bounds["full-rank"].value - bounds["mean-field"].value
np.testing.assert_allclose(difference, gap, atol=5 * bounds["mean-field"].standard_error + 0.01)
