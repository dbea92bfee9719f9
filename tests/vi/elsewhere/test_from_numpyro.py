"""Models of the real NumPyro become the same density, on the same sets, and are fitted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import vi

numpyro = pytest.importorskip("numpyro")
dist = pytest.importorskip("numpyro.distributions")
constraints = pytest.importorskip("numpyro.distributions.constraints")
util = pytest.importorskip("numpyro.infer.util")

Y = jnp.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
SIGMA = jnp.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


@pytest.fixture(autouse=True)
def _promotion_as_numpyro_needs_it():
    with jax.numpy_dtype_promotion("standard"):
        yield


def schools(y, sigma):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("schools", len(y)):
        theta = numpyro.sample("theta", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(mu + tau * theta, sigma), obs=y)


def everywhere():
    numpyro.sample("real", dist.StudentT(5.0))
    numpyro.sample("vector", dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)))
    numpyro.sample("entries", dist.Normal(jnp.zeros(3), 1.0).to_event(1))
    numpyro.sample("positive", dist.Gamma(2.0))
    numpyro.sample("above", dist.Pareto(1.5, 3.0))
    numpyro.sample("between", dist.Uniform(-1.0, 2.0))
    numpyro.sample("boxes", dist.Uniform(jnp.zeros(2), jnp.array([1.0, 3.0])))
    numpyro.sample("share", dist.Beta(2.0, 3.0))
    numpyro.sample("simplex", dist.Dirichlet(jnp.array([1.0, 2.0, 3.0])))
    numpyro.sample("angle", dist.VonMises(0.0, 1.0))
    numpyro.sample("correlation", dist.LKJCholesky(3, 2.0))
    numpyro.sample("covariance", dist.Wishart(5.0, scale_tril=jnp.eye(2)))
    numpyro.sample("flat", dist.ImproperUniform(constraints.positive, (), ()))
    numpyro.sample("ordered", dist.ImproperUniform(constraints.ordered_vector, (), (3,)))
    with numpyro.plate("two", 2):
        numpyro.sample("each", dist.Exponential(2.0))


@pytest.mark.slow
def test_density_is_the_models_on_every_set():
    log_density, example, support = vi.from_numpyro(everywhere)
    family = vi.mean_field(example, support=support)

    @jax.jit
    def both(flat):
        position = family.unravel(flat)
        expected, trace = util.log_density(everywhere, (), {}, position)
        for name, value in position.items():
            assert jnp.shape(value) == jnp.shape(trace[name]["value"])
        inside = {name: trace[name]["fn"].support(value) for name, value in position.items()}
        return log_density(position), expected, inside

    found, expected, inside = both(0.3 * jnp.cos(jnp.arange(family.dimension, dtype=float)))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    for name, holds in inside.items():
        assert jnp.all(holds), name


def test_volume_of_a_set_of_numpyros_own_is_that_of_its_transform():
    _, example, support = vi.from_numpyro(everywhere)
    family = vi.mean_field({"c": example["covariance"]}, support={"c": support["covariance"]})
    flat = jnp.array([0.3, -0.2, 0.5])

    def lower(u):
        return family.unravel(u)["c"][jnp.tril_indices(2)]

    _, expected = jnp.linalg.slogdet(jax.jacobian(lower)(flat))
    np.testing.assert_allclose(family.log_volume(flat), expected, rtol=1e-5)
    np.testing.assert_allclose(family.ravel(family.unravel(flat)), flat, rtol=1e-4)


def test_eight_schools_are_fitted_as_they_stand():
    log_density, example, support = vi.from_numpyro(schools, Y, sigma=SIGMA)
    fit = vi.fit(log_density, example, jax.random.key(0), support=support)
    draws = vi.posterior_draws(fit, jax.random.key(1), 4000)
    # Means of the published reference posterior, of sds 3.3 and 3.2.
    np.testing.assert_allclose(draws["mu"].mean(), 4.41, atol=0.3)
    np.testing.assert_allclose(draws["tau"].mean(), 3.60, atol=0.35)


def test_models_in_handlers_are_models():
    centered = numpyro.handlers.condition(schools, {"mu": jnp.array(1.0)})
    assert set(vi.from_numpyro(centered, Y, SIGMA)[1]) == {"tau", "theta"}


def dependent():
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    numpyro.sample("z", dist.Uniform(0.0, scale))


def branching():
    x = numpyro.sample("x", dist.Normal())
    numpyro.sample("more" if x > 0 else "less", dist.Normal())


def subsampled():
    with numpyro.plate("rows", 10, subsample_size=2):
        numpyro.sample("z", dist.Normal())


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (lambda: numpyro.sample("k", dist.Poisson(3.0)), "continuous latent sites; got 'k'.*Sum"),
        (lambda: numpyro.sample("k", dist.Normal(), obs=0.0), "must have a latent site"),
        (lambda: numpyro.param("w", 1.0), r"prior for every unknown; got numpyro.param\('w'\)"),
        (subsampled, "plate 'rows', which draws 2 of 10. Leave `subsample_size` out"),
        (dependent, "do not depend on other sites; got 'z' in Interval"),
        (branching, "same sites at every position"),
    ],
)
def test_what_is_no_density_on_a_fixed_set_is_named(model, match):
    with pytest.raises(ValueError, match=match):
        vi.from_numpyro(model)


def test_model_must_be_a_function():
    with pytest.raises(TypeError, match="`model` must be a NumPyro model, a function; got list"):
        vi.from_numpyro([1.0])
