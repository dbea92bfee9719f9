"""Every estimator is unbiased for a closed-form gradient, and closed forms are met."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from equipoise import vi

GRADIENTS = ("closed_form_entropy", "sticking_the_landing", "score_function")
DRAWS = ("iid", "antithetic", "quasi_random")

# log p(z) = -(z - b)ᵀ A (z - b)/2 - Σ c_i cos z_i, whose mean under a normal is closed.
A = np.array([[2.0, 0.6, 0.0], [0.6, 1.0, -0.3], [0.0, -0.3, 0.7]])
B = np.array([0.5, -1.0, 0.3])
C = np.array([0.4, -0.7, 0.2])


def log_density(z):
    shift = z - B
    return -0.5 * shift @ jnp.asarray(A) @ shift - jnp.sum(C * jnp.cos(z))


def exact_elbo(mean, covariance, entropy):
    shift = mean - B
    quadratic = -0.5 * (shift @ jnp.asarray(A) @ shift + jnp.sum(A * covariance))
    wave = jnp.sum(C * jnp.cos(mean) * jnp.exp(-0.5 * jnp.diag(covariance)))
    return quadratic - wave + entropy


def exact_of(family):
    def fn(params):
        mean, scale = family.moments(params)
        covariance = jnp.diag(scale**2) if scale.ndim == 1 else scale @ scale.T
        return exact_elbo(mean, covariance, family.entropy(params))

    return fn


FAMILIES = {
    "mean_field": vi.mean_field(B),
    "full_rank": vi.full_rank(B),
    "low_rank": vi.low_rank(B, rank=1),
    "block_diagonal": vi.block_diagonal(B, blocks=(1, 2)),
}
CASES = [
    *itertools.product(("mean_field",), GRADIENTS, ("iid",)),
    ("full_rank", "closed_form_entropy", "quasi_random"),
]
MORE = [
    *itertools.product(("mean_field", "full_rank"), GRADIENTS, DRAWS),
    *itertools.product(("low_rank", "block_diagonal"), GRADIENTS, ("iid",)),
]
CASES += [pytest.param(*case, marks=pytest.mark.slow) for case in MORE if case not in CASES]


def point(family):
    """Params away from any optimum, without symmetries."""
    params = family.init(position=jnp.array([0.2, -0.4, 0.9]), scale=jnp.array([0.5, 1.2, 0.8]))
    for name in set(params) - {"mean", "log_scale"}:
        params[name] = jax.tree.map(
            lambda leaf: jnp.asarray(np.resize([0.4, -0.3, 0.6], leaf.shape)), params[name]
        )
    return params


@functools.partial(jax.jit, static_argnames=("family", "gradient", "draws", "repeats"))
def repeated(family, params, key, gradient, draws, repeats):
    def one(key):
        def value(params):
            bound = vi.elbo(
                log_density,
                family,
                params,
                key,
                num_samples=64,
                gradient=gradient,
                draws=draws,
            )
            return bound.value, bound.standard_error

        return jax.value_and_grad(value, has_aux=True)(params)

    # By hand, since the batches of `lax.map` do not take the empty leaves of a block of one.
    batches = jax.lax.map(jax.vmap(one), jax.random.split(key, (repeats // 64, 64)))
    return jax.tree.map(lambda x: x.reshape(repeats, *x.shape[2:]), batches)


@pytest.mark.parametrize(("name", "gradient", "draws"), CASES)
def test_elbo_and_its_gradient_are_unbiased(name, gradient, draws, key):
    family = FAMILIES[name]
    params = point(family)
    repeats = 1600  # of 64 draws each: 102 400 draws
    (values, errors), gradients = repeated(family, params, key, gradient, draws, repeats)
    exact, exact_gradient = jax.value_and_grad(exact_of(family))(params)

    def assert_unbiased(samples, expected):
        error = np.std(samples, axis=0, ddof=1) / repeats**0.5
        # 1e-6: draws are made in single precision.
        np.testing.assert_array_less(
            np.abs(np.mean(samples, axis=0) - expected), 4 * error + 1e-6 * (1 + np.abs(expected))
        )

    assert_unbiased(values, exact)
    jax.tree.map(assert_unbiased, gradients, exact_gradient)
    # The reported variance is unbiased for that of the value: 3 lattices give it a relative
    # error of sqrt(2/3) each, so 1600 of them 2 %; five times that, and room for heavy tails.
    np.testing.assert_allclose(np.mean(errors**2), np.var(values, ddof=1), rtol=0.25)


def test_elbo_matches_numpy_float64(key):
    family = FAMILIES["mean_field"]
    params = point(family)
    z = np.asarray(family.sample(params, key, 5))
    q = scipy.stats.norm(params["mean"], np.exp(params["log_scale"]))
    log_p = [-0.5 * (x - B) @ A @ (x - B) - C @ np.cos(x) for x in z]
    terms = np.array(log_p) - q.logpdf(z).sum(axis=1)
    bound = vi.elbo(
        log_density, family, params, key, num_samples=5, gradient="sticking_the_landing"
    )
    np.testing.assert_allclose(bound.value, terms.mean(), rtol=1e-12)
    np.testing.assert_allclose(bound.standard_error, scipy.stats.sem(terms), rtol=1e-12)


@pytest.mark.parametrize("gradient", ["closed_form_entropy", "sticking_the_landing"])
def test_elbo_gradient_of_closed_entropy_is_that_of_the_value(gradient, key):
    """Finite differences agree for the first and do not for the second, which drops the score."""
    family = FAMILIES["mean_field"]
    params = point(family)

    def value(shift):
        moved = {**params, "log_scale": params["log_scale"] + shift}
        return vi.elbo(log_density, family, moved, key, num_samples=4, gradient=gradient).value

    difference = (value(1e-5) - value(-1e-5)) / 2e-5
    agrees = np.isclose(jax.grad(value)(0.0), difference, rtol=1e-7)
    assert agrees == (gradient == "closed_form_entropy")


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_elbo_gradient_reaches_what_the_density_closes_over(gradient, key):
    """The gradient by a model's own parameters is exact for the value, whatever the estimator."""
    family = FAMILIES["mean_field"]

    def value(slope):
        return vi.elbo(
            lambda z: jnp.sum(jnp.sin(slope * z)),
            family,
            point(family),
            key,
            num_samples=4,
            gradient=gradient,
        ).value

    difference = (value(0.7 + 1e-5) - value(0.7 - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(value)(0.7), difference, rtol=1e-8)


def test_elbo_of_the_normal_example_is_the_evidence(key):
    """x ~ N(0, 1), y = 10 ~ N(x, 0.5²): posterior N(8, 0.2), log evidence -41.030510."""

    def joint(x):
        return jnp.asarray(
            jax.scipy.stats.norm.logpdf(x) + jax.scipy.stats.norm.logpdf(10.0, x, 0.5)
        )

    family = vi.mean_field(0.0)
    params = family.init(position=jnp.array(8.0), scale=jnp.sqrt(0.2))
    bound = vi.elbo(joint, family, params, key, num_samples=10, gradient="sticking_the_landing")
    # Exact: log N(10; 0, 1.25).
    np.testing.assert_allclose(bound.value, scipy.stats.norm.logpdf(10, 0, 1.25**0.5), atol=1e-12)
    assert abs(float(bound.value) + 41.030510) < 1e-6
    gradient = jax.grad(
        lambda p: (
            vi.elbo(joint, family, p, key, num_samples=10, gradient="sticking_the_landing").value
        )
    )(params)
    assert all(np.abs(g).max() < 1e-12 for g in jax.tree.leaves(gradient))


def conjugate_regression(rng, n=100, d=5):
    """Design, data and the exact posterior and evidence of β ~ N(0, 100 I), y ~ N(Xβ, I)."""
    x = rng.normal(size=(n, d))
    y = x @ rng.normal(size=d) + rng.normal(size=n)
    precision = x.T @ x + np.eye(d) / 100
    covariance = np.linalg.inv(precision)
    mean = covariance @ x.T @ y
    evidence = scipy.stats.multivariate_normal(np.zeros(n), np.eye(n) + 100 * x @ x.T).logpdf(y)

    def joint(beta):
        likelihood = jax.scipy.stats.norm.logpdf(y, x @ beta, 1.0)
        return jnp.sum(likelihood) + jnp.sum(jax.scipy.stats.norm.logpdf(beta, 0.0, 10.0))

    return joint, mean, covariance, evidence


def test_elbo_of_conjugate_regression_is_the_evidence_without_variance(rng, key):
    joint, mean, covariance, evidence = conjugate_regression(rng)
    family = vi.full_rank(mean)
    params = family.init(position=mean, scale=np.linalg.cholesky(covariance))

    def estimator(params, key):
        return vi.elbo(joint, family, params, key, num_samples=8, gradient="sticking_the_landing")

    np.testing.assert_allclose(estimator(params, key).value, evidence, rtol=1e-12)
    measured = vi.gradient_variance(estimator, params, key)
    assert measured.total < 1e-20


def test_elbo_never_exceeds_the_evidence(rng, key):
    joint, mean, covariance, evidence = conjugate_regression(rng)
    family = vi.full_rank(mean)
    best = family.init(position=mean, scale=np.linalg.cholesky(covariance))
    noise = [jax.random.normal(k, (best["lower"].size,)) for k in jax.random.split(key, 3)]
    for shift in noise:
        params = {**best, "lower": best["lower"] + 0.05 * shift}
        bound = vi.elbo(joint, family, params, key, num_samples=4096)
        expected = evidence - vi.kl_divergence(family, params, family, best)
        assert abs(bound.value - expected) < 4 * bound.standard_error
        assert expected < evidence


def test_elbo_edge_single_draw_has_unknown_error(key):
    family = FAMILIES["mean_field"]
    assert jnp.isnan(vi.elbo(log_density, family, point(family), key, num_samples=1).standard_error)
    lattice = vi.elbo(
        log_density,
        family,
        point(family),
        key,
        num_samples=8,
        draws="quasi_random",
        replications=1,
    )
    assert jnp.isfinite(lattice.value)
    assert jnp.isnan(lattice.standard_error)


def test_elbo_rejects_mistakes(key):
    family = FAMILIES["mean_field"]
    params = family.init()
    bound = functools.partial(vi.elbo, log_density, family, params, key)
    mistakes = {
        r"vi.elbo: `num_samples` must be at least 1; got int 0": {"num_samples": 0},
        r"`num_samples` must be a Python integer": {"num_samples": 2.0},
        r"`gradient` must be one of 'closed_form_entropy'": {"gradient": "pathwise"},
        r"`draws` must be one of 'iid', 'antithetic'": {"draws": "sobol"},
        r"must be a multiple of 2 with antithetic draws; got int": {
            "num_samples": 3,
            "draws": "antithetic",
        },
        r"must be a multiple of 4 with quasi_random draws": {"draws": "quasi_random"},
        r"two independent blocks of draws for a leave-one-out": {
            "num_samples": 1,
            "gradient": "score_function",
        },
    }
    for words, options in mistakes.items():
        error = TypeError if "integer" in words else ValueError
        with pytest.raises(error, match=words):
            bound(**{"num_samples": 6, **options})
    scalar = params | {"log_scale": jnp.zeros(())}  # would broadcast, and count once as entropy
    for wrong in (None, {"mean": params["mean"]}, scalar):
        with pytest.raises(ValueError, match=r"`params` must look like those of family.init"):
            vi.elbo(log_density, family, wrong, key, num_samples=2)
        with pytest.raises(ValueError, match=r"`params` must look like those of family.init"):
            family.sample(wrong, key, 2)
    for wrong in (lambda z: z, lambda z: 1, lambda z: jnp.sum(z)[None]):
        with pytest.raises(ValueError, match=r"vi.elbo: `log_density` must return one floating"):
            vi.elbo(wrong, family, params, key, num_samples=2)


def test_elbo_rejects_a_pathwise_gradient_without_a_path(key):
    """A family of one's own, of which only draws and density are known."""
    coin = vi.Family(
        name="coin",
        init=lambda key=None: {"logit": jnp.zeros(())},
        sample=lambda p, key, n: jax.random.bernoulli(key, jax.nn.sigmoid(p["logit"]), (n,)),
        log_prob=lambda p, z: jax.nn.log_sigmoid(jnp.where(z, p["logit"], -p["logit"])),
    )
    params = {"logit": jnp.array(0.3)}

    def log_p(z):
        return jnp.where(z, 1.0, -0.5)

    for gradient in ("closed_form_entropy", "sticking_the_landing"):
        with pytest.raises(ValueError, match=r"must be 'score_function'.*not reparameterized; got"):
            vi.elbo(log_p, coin, params, key, num_samples=4, gradient=gradient)
    with pytest.raises(ValueError, match=r"with iid draws.*antithetic draws of coin"):
        vi.elbo(
            log_p, coin, params, key, num_samples=4, gradient="score_function", draws="antithetic"
        )

    def value(p):
        return vi.elbo(log_p, coin, p, key, num_samples=100_000, gradient="score_function").value

    def exact(p):
        q = jax.nn.sigmoid(p["logit"])
        return q * (1.0 - jnp.log(q)) + (1 - q) * (-0.5 - jnp.log1p(-q))

    # 4 standard errors: log p - log q has sd 0.6, the score 0.5, over the root of 1e5 draws.
    np.testing.assert_allclose(value(params), exact(params), atol=4 * 0.6 / 1e5**0.5)
    np.testing.assert_allclose(
        jax.grad(value)(params)["logit"],
        jax.grad(exact)(params)["logit"],
        atol=4 * 0.3 / 1e5**0.5,
    )
