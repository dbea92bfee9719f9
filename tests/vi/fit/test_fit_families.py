"""Every family through the fit: closed forms where they exist, and no trust in a wrong answer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from equipoise import vi

pytestmark = pytest.mark.slow

LOG_2PI = np.log(2 * np.pi)
PRECISION = 2 * np.eye(4) - 0.9 * (np.eye(4, k=1) + np.eye(4, k=-1))


def correlated(z):
    """A normal density with mean 1."""
    shift = z - 1
    constant = 0.5 * np.linalg.slogdet(PRECISION)[1] - 2 * LOG_2PI
    return -0.5 * shift @ jnp.asarray(PRECISION) @ shift + constant


def log_determinant(matrix):
    return np.linalg.slogdet(matrix)[1]


def test_fit_of_a_block_diagonal_normal_reaches_the_closed_form(key):
    fit = vi.fit(
        correlated, jnp.zeros(4), key, family=lambda e: vi.block_diagonal(e, blocks=(1, 3))
    )
    # The best block has the precision's block, so KL = (Σ log|P_bb| − log|P|)/2.
    inside = log_determinant(PRECISION[:1, :1]) + log_determinant(PRECISION[1:, 1:])
    expected = -0.5 * (inside - log_determinant(PRECISION))
    assert abs(fit.elbo.value - expected) < 4 * fit.elbo.standard_error + 1e-3
    np.testing.assert_allclose(fit.params["mean"], 1.0, atol=0.05)
    assert fit.trusted
    draws = vi.posterior_draws(fit, key, 8000)
    # Relative error of an sd from 8000 draws with weights: 1 %, five of it.
    sds = np.sqrt(np.diag(np.linalg.inv(PRECISION)))
    np.testing.assert_allclose(draws.std(0), sds, rtol=0.05)


# A line search compares values, so it needs more draws per step than the noise of 16 allows.
@pytest.mark.parametrize(
    ("optimizer", "num_samples"), [(None, None), (optax.sgd(0.02), None), (optax.lbfgs(), 256)]
)
def test_fit_of_a_low_rank_normal_reaches_the_evidence_with_any_optimizer(
    optimizer, num_samples, key
):
    """With d − 1 columns any covariance can be reached, and the bound is tight."""
    fit = vi.fit(
        correlated,
        jnp.zeros(4),
        key,
        family=lambda example: vi.low_rank(example, rank=3),
        optimizer=optimizer,
        num_samples=num_samples,
    )
    assert abs(fit.elbo.value) < 0.01
    assert fit.trusted


def two_modes(z):
    first = -0.5 * jnp.sum((z - jnp.array([-3.0, 0.0])) ** 2)
    scale = jnp.array([1.0, 0.5])
    second = -0.5 * jnp.sum(((z - jnp.array([3.0, 1.0])) / scale) ** 2) - jnp.log(0.5)
    return jnp.logaddexp(jnp.log(0.3) + first, jnp.log(0.7) + second) - LOG_2PI


def test_fit_of_a_mixture_finds_the_mixture_it_was_drawn_from(key):
    fit = vi.fit(
        two_modes, jnp.zeros(2), key, family=lambda example: vi.mixture(example, num_components=2)
    )
    order = jnp.argsort(fit.params["mean"][:, 0])
    # q can be p, where sticking the landing has no noise left: Adam's last steps are the error.
    np.testing.assert_allclose(fit.elbo.value, 0.0, atol=1e-3)
    np.testing.assert_allclose(fit.params["mean"][order], [[-3.0, 0.0], [3.0, 1.0]], atol=0.02)
    weights = jax.nn.softmax(fit.params["logits"])[order]
    np.testing.assert_allclose(weights, [0.3, 0.7], atol=0.01)
    assert fit.trusted
    assert fit.source == "variational"


def banana(z):
    return -0.5 * z[0] ** 2 - 2 * (z[1] - z[0] ** 2) ** 2 - jnp.log(jnp.pi)


@pytest.mark.parametrize(
    "family",
    [vi.flow, lambda example: vi.mixture(example, num_components=8)],
    ids=["flow", "mixture"],
)
def test_fit_of_a_banana_is_not_trusted_where_it_ends_too_early(family):
    """The sds are 1 and 1.5. Weights of draws that miss the ends of the banana look harmless."""
    fit = vi.fit(banana, jnp.zeros(2), jax.random.key(0), family=family)
    draws = np.asarray(vi.posterior_draws(fit, jax.random.key(1), 8000))
    wrong = np.abs(draws.std(0) / [1.0, 1.5] - 1).max() > 0.1
    assert fit.trusted != wrong
    # A full-rank normal gets no further than −0.55.
    assert fit.elbo.value > -0.3


# Each density is normalized, over the coordinates that its support names.
SUPPORTED = {
    "rate": jnp.ones(()),
    "share": 0.5 * jnp.ones(()),
    "mix": jnp.ones(3) / 3,
    "cuts": jnp.arange(3.0),
    "factor": jnp.eye(2),
}
SUPPORTS = {
    "rate": vi.positive(),
    "share": vi.interval(0.0, 1.0),
    "mix": vi.simplex(),
    "cuts": vi.ordered(),
    "factor": vi.cholesky_correlation(),
}


def on_supports(z):
    """Gamma(5, 2), Beta(6, 4), Dirichlet(6, 7, 8), sorted normals, correlation of LKJ(4)."""
    stats = jax.scipy.stats
    share = stats.beta.logpdf(z["share"], 6.0, 4.0)
    mix = stats.dirichlet.logpdf(z["mix"], jnp.array([6.0, 7.0, 8.0]))
    cuts = jnp.log(6.0) + jnp.sum(stats.norm.logpdf(z["cuts"]))
    factor = 3 * jnp.log1p(-(z["factor"][1, 0] ** 2)) + jnp.log(35 / 32)
    rate = stats.gamma.logpdf(z["rate"], 5.0, scale=0.5)
    return rate + share + mix + cuts + factor


def test_fit_on_every_support_finds_the_moments_and_the_evidence(key):
    fit = vi.fit(on_supports, SUPPORTED, key, support=SUPPORTS)
    assert fit.trusted
    # Five standard errors of the log evidence, √(1/ESS) each.
    effective = fit.draw_diagnostics.effective_sample_size
    assert abs(fit.draw_diagnostics.log_evidence) < 5 / effective**0.5
    draws = jax.tree.map(np.asarray, vi.posterior_draws(fit, key, 8000))
    middle = 1.5 / np.pi**0.5  # mean of the largest of three normals
    for leaf, mean in (
        (draws["rate"], 2.5),
        (draws["share"], 0.6),
        (draws["mix"], np.array([6, 7, 8]) / 21),
        (draws["cuts"], np.array([-middle, 0, middle])),
        (draws["factor"][:, 1, 0], 0.0),
    ):
        # Six standard errors of 2000 independent draws.
        np.testing.assert_array_less(
            np.abs(leaf.mean(0) - mean), 6 * leaf.std(0) / 2000**0.5, err_msg=str(mean)
        )
    assert np.all(np.diff(draws["cuts"], axis=1) > 0)
    np.testing.assert_allclose(draws["mix"].sum(1), 1, rtol=1e-12)
    assert draws["rate"].min() > 0
