"""A family of the user's own: fitted, judged and measured like ours, as far as it can."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import vi

UNIT = vi.interval(0.0, 1.0)


def init(key):
    return {"log_a": jnp.zeros(()), "log_b": jnp.zeros(())}


def transform(params, noise):
    upper = jax.scipy.stats.norm.cdf(noise[0])
    log_power = jnp.log1p(-(upper ** jnp.exp(-params["log_b"])))
    return jnp.exp(jnp.exp(-params["log_a"]) * log_power)


def sample(params, key, num_samples):
    return jax.vmap(transform, (None, 0))(params, jax.random.normal(key, (num_samples, 1)))


def log_prob(params, x):
    a, b = jnp.exp(params["log_a"]), jnp.exp(params["log_b"])
    return jnp.log(a * b) + (a - 1) * jnp.log(x) + (b - 1) * jnp.log1p(-(x**a))


SCORED = vi.Family("kumaraswamy", init, sample, log_prob, support=UNIT)
PATHWISE = dataclasses.replace(SCORED, transform=transform, noise_size=1)
BEST = {"log_a": jnp.log(2.0), "log_b": jnp.log(3.0)}


def of_the_family(x):
    """The density that the family has at a = 2, b = 3."""
    return log_prob(BEST, x)


@pytest.fixture(scope="module", params=[SCORED, PATHWISE], ids=["scored", "pathwise"])
def fitted(request):
    family = request.param
    options = {} if family is PATHWISE else {"num_steps": 1500}
    return family, vi.fit(of_the_family, 0.5, jax.random.key(0), family=family, **options)


def test_fit_of_an_own_family_finds_the_member_that_the_target_is(fitted):
    family, fit = fitted
    # The gradient without a path has noise at the optimum: Adam ends within a few hundredths.
    error = 1e-3 if family is PATHWISE else 0.05
    for name, value in BEST.items():
        np.testing.assert_allclose(fit.params[name], value, atol=error)
    np.testing.assert_allclose(fit.elbo.value, 0.0, atol=error**2 + 1e-6)
    assert fit.trusted
    assert fit.verdict is vi.Verdict.TRUSTED
    draws = np.asarray(vi.posterior_draws(fit, jax.random.key(1), 8000))
    # E x = b B(3/2, b) for a = 2, b = 3, which is 16/35; five standard errors and the ELBO's.
    assert abs(draws.mean() - 16 / 35) < 5 * 0.2 / 8000**0.5 + error / 10


def test_own_family_is_measured_like_ours(key):
    found = vi.diagnose(of_the_family, SCORED, BEST, key, num_samples=1000)
    np.testing.assert_allclose(found.effective_sample_size, 1000, rtol=1e-9)
    np.testing.assert_allclose(found.log_evidence, 0, atol=1e-12)
    for family, gradient in (
        (SCORED, "score_function"),
        (PATHWISE, "closed_form_entropy"),
        (PATHWISE, "sticking_the_landing"),
    ):

        def estimator(params, key, family=family, gradient=gradient):
            options = {"num_samples": 8, "gradient": gradient}
            return vi.elbo(of_the_family, family, params, key, **options)

        # q is p: every draw says 0, and a gradient without the score has no noise.
        np.testing.assert_allclose(estimator(BEST, key).value, 0, atol=1e-12)
        noise = vi.gradient_variance(estimator, BEST, key, num_repeats=4).total
        assert (noise < 1e-20) == (gradient != "closed_form_entropy")
    terms = vi.elbo_terms(
        lambda x: jnp.log(x), (PATHWISE, BEST), PATHWISE, BEST, key, num_samples=8
    )
    np.testing.assert_allclose(terms.kl.value, 0, atol=1e-12)
    bound = vi.importance_weighted_bound(
        of_the_family, PATHWISE, BEST, key, num_importance_samples=3
    )
    np.testing.assert_allclose(bound.value, 0, atol=1e-12)


def test_own_family_with_a_closed_entropy_uses_it(key):
    """A uniform distribution of width e^s: the entropy is s, exactly, and so is its gradient."""
    family = vi.Family(
        "uniform",
        lambda key: {"s": jnp.zeros(())},
        lambda params, key, n: jnp.exp(params["s"]) * jax.random.uniform(key, (n,)),
        lambda params, x: -params["s"],
        transform=lambda params, e: jnp.exp(params["s"]) * jax.scipy.stats.norm.cdf(e[0]),
        entropy=lambda params: params["s"],
    )

    def bound(params):
        return vi.elbo(lambda x: 0.0 * x, family, params, key, num_samples=2).value

    value, gradient = jax.value_and_grad(bound)({"s": jnp.array(0.7)})
    np.testing.assert_allclose([value, gradient["s"]], [0.7, 1.0], rtol=1e-12)


def test_own_family_without_a_path_says_what_it_cannot(key):
    with pytest.raises(ValueError, match=r"vi.importance_weighted_bound: `family` must be repar"):
        vi.importance_weighted_bound(of_the_family, SCORED, BEST, key, num_importance_samples=2)
    with pytest.raises(ValueError, match=r"vi.fit: `gradient` must be 'score_function'"):
        vi.fit(of_the_family, 0.5, key, family=SCORED, gradient="sticking_the_landing")
    with pytest.raises(ValueError, match=r"vi.fit: `family` must have positions like `example`"):
        vi.fit(of_the_family, jnp.zeros(2), key, family=SCORED)
    with pytest.raises(ValueError, match=r"vi.kl_divergence: `family` must be normal"):
        vi.kl_divergence(SCORED, BEST, SCORED, BEST)
    coin = vi.categorical(2)
    with pytest.raises(ValueError, match=r"vi.diagnose: `family` must have floating-point pos"):
        vi.diagnose(lambda i: 0.0 * i, coin, coin.init(), key)
    with pytest.raises(ValueError, match=r"got discrete ones"):
        vi.fit(lambda x: -(x**2), 0.0, key, family=coin)


@pytest.mark.slow
def test_fit_of_an_own_family_is_not_trusted_where_it_cannot_follow(key):
    """A normal of sd 1 in 60 coordinates, for a target of sd 3 in each: no weights repair that."""
    size = 60
    narrow = vi.Family(
        "narrow",
        lambda key: {"mean": jnp.zeros(size)},
        lambda params, key, n: params["mean"][None] + jax.random.normal(key, (n, size)),
        lambda params, z: jnp.sum(jax.scipy.stats.norm.logpdf(z - params["mean"])),
        transform=lambda params, noise: params["mean"] + noise,
    )
    fit = vi.fit(
        lambda z: -0.5 * jnp.sum((z - 1) ** 2) / 9, jnp.zeros(size), key, family=narrow,
        num_steps=300, escalate=False,
    )  # fmt: skip
    assert not fit.trusted
    assert fit.verdict is not vi.Verdict.TRUSTED
    assert fit.reason.startswith("Not trusted: ")
