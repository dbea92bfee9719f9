"""The fit: closed forms, what it reports, and what it rejects."""

import dataclasses
import functools
import pickle
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from equipoise import vi

LOG_2PI = np.log(2 * np.pi)


def normal_log_prob(x, mean, sd):
    return -0.5 * ((x - mean) / sd) ** 2 - jnp.log(sd) - 0.5 * LOG_2PI


def one_dimension(z):
    return normal_log_prob(z, 0.0, 1.0) + normal_log_prob(10.0, z, 0.5)


def test_fit_finds_the_posterior_of_one_observation(key):
    fit = vi.fit(one_dimension, jnp.zeros(()), key)
    # A normal target is integrated exactly by balanced points, so only rounding is left.
    np.testing.assert_allclose(fit.params["mean"], [8.0], rtol=1e-9)
    np.testing.assert_allclose(np.exp(fit.params["log_scale"]), [0.2**0.5], rtol=1e-9)
    np.testing.assert_allclose(fit.elbo.value, -41.030510, atol=1e-6)
    assert fit.converged
    assert fit.trusted
    assert fit.verdict is vi.Verdict.TRUSTED
    assert fit.source == "variational"
    assert fit.source is vi.Source.VARIATIONAL
    # A sparse grid draws nothing: what it is off by has a name of its own.
    assert fit.elbo.standard_error == 0
    assert fit.elbo.error_bound < 1e-6


def test_fit_reaches_the_evidence_of_a_conjugate_regression(key, rng):
    design, noise = rng.normal(size=(100, 5)), rng.normal(size=100)
    outcome = design @ np.arange(5.0) + noise

    def log_density(beta):
        prior = jnp.sum(normal_log_prob(beta, 0.0, 10.0))
        return prior + jnp.sum(normal_log_prob(jnp.asarray(outcome), design @ beta, 1.0))

    fit = vi.fit(log_density, jnp.zeros(5), key)
    covariance = 100 * design @ design.T + np.eye(100)
    evidence = -0.5 * (
        outcome @ np.linalg.solve(covariance, outcome)
        + np.linalg.slogdet(covariance)[1]
        + 100 * LOG_2PI
    )
    # q is the posterior, where log p − log q is constant up to rounding of sums of 100 terms.
    np.testing.assert_allclose(fit.elbo.value, evidence, atol=1e-9)
    assert fit.elbo.standard_error < 1e-10
    assert fit.trusted


@pytest.mark.parametrize("size", [2, 50, 200])
def test_fit_of_a_normal_in_float32_is_trusted(key, rng, size):
    root = rng.normal(size=(size, size)) / size**0.5
    precision = jnp.asarray(root @ root.T + np.eye(size), jnp.float32)
    fit = vi.fit(lambda z: -0.5 * z @ precision @ z, jnp.zeros(size, jnp.float32), key)
    # q is the target, so all that differs between weights is rounding.
    assert fit.diagnostics.khat == 0
    assert fit.source == "variational"
    assert fit.trusted


def own_init(key):
    return {"shift": jnp.zeros(2)}


def own_transform(params, noise):
    return jax.nn.softmax(jnp.append(params["shift"] + noise, 0.0))


def own_sample(params, key, num_samples):
    return jax.vmap(own_transform, (None, 0))(params, jax.random.normal(key, (num_samples, 2)))


def own_log_prob(params, position):
    flat = jnp.log(position[:2]) - jnp.log(position[2])
    return jnp.sum(normal_log_prob(flat, params["shift"], 1.0)) - jnp.sum(jnp.log(position))


def three_parts(position):
    return 2 * jnp.sum(jnp.log(position))


def simplex_and_more(z):
    return three_parts(z["mix"]) + jnp.log(z["rate"]) - 2 * z["rate"]


def test_posterior_draws_have_the_structure_of_the_example(key):
    example = {"a": jnp.zeros(2), "b": jnp.zeros(())}
    fit = vi.fit(lambda z: -jnp.sum(z["a"] ** 2) - (z["b"] - 1) ** 2, example, key)
    draws = vi.posterior_draws(fit, key, 50)
    assert jax.tree.map(jnp.shape, draws) == {"a": (50, 2), "b": (50,)}
    with pytest.raises(ValueError, match="`num_samples` must be at least 1"):
        vi.posterior_draws(fit, key, 0)


def test_fit_rejects_what_it_cannot_start_from(key):
    with pytest.raises(ValueError, match="`log_density` must have a finite value at the start"):
        vi.fit(lambda z: jnp.log(z[0]), jnp.zeros(1), key)
    with pytest.raises(ValueError, match="`log_density` must return one floating-point number"):
        vi.fit(lambda z: -(z**2), jnp.zeros(3), key)
    with pytest.raises(TypeError, match="`example` must be floating-point"):
        vi.fit(lambda z: -jnp.sum(z**2), jnp.zeros(3, int), key)
    with pytest.raises(ValueError, match="`num_samples` must be at least 1"):
        vi.fit(one_dimension, jnp.zeros(()), key, num_samples=0)
    with pytest.raises(TypeError, match="`family` must be a Family"):
        vi.fit(one_dimension, jnp.zeros(()), key, family="full_rank")


def correlated(z):
    return -0.5 * jnp.sum(z**2) - 0.5 * (z[0] - z[1]) ** 2


def test_fit_of_a_mean_field_normal_repairs_the_covariance_it_lacks(key):
    fit = vi.fit(correlated, jnp.zeros(2), key, family=vi.mean_field)
    # Precision [[2, −1], [−1, 2]]: the best mean-field sds are 1/√2, the true ones √(2/3).
    np.testing.assert_allclose(jnp.exp(fit.params["log_scale"]), 0.5**0.5, rtol=1e-7)
    covariance = fit.linear_response @ fit.linear_response.T
    np.testing.assert_allclose(covariance, np.array([[2, 1], [1, 2]]) / 3, rtol=1e-7)
    draws = vi.posterior_draws(fit, key, 4000)
    # Relative error of an sd from 4000 draws is 1.1 %, four of it.
    np.testing.assert_allclose(draws.std(0), (2 / 3) ** 0.5, rtol=0.045)
    assert fit.trusted
    assert fit.source == "importance resampled"


def test_fit_with_an_optimizer_resumes_to_the_same_bits(key):
    optimizer = optax.adam(0.05)
    options = {"family": vi.mean_field, "optimizer": optimizer, "num_samples": 4}
    whole = vi.fit(correlated, jnp.zeros(2), key, num_steps=60, **options)
    seen = []
    half = vi.fit(correlated, jnp.zeros(2), key, num_steps=23, **options)
    rest = vi.fit(
        correlated,
        jnp.zeros(2),
        key,
        num_steps=60,
        state=half.state,
        progress=lambda step, elbo: seen.append((step, elbo)),
        **options,
    )
    chex.assert_trees_all_equal(rest.state, whole.state)
    assert seen[-1] == (60, float(whole.history[-1]))
    assert all(np.isfinite(elbo) for _, elbo in seen)


def test_fit_resumes_natural_gradient_steps_to_the_same_bits(key):
    def skewed(z):
        return jnp.sum(z - jnp.exp(z)) - 0.3 * z[0] ** 4

    whole = vi.fit(skewed, jnp.zeros(2), key)
    first = vi.fit(skewed, jnp.zeros(2), key, num_steps=2)
    assert not first.converged
    assert not first.trusted
    assert first.verdict is vi.Verdict.NOT_CONVERGED
    assert "not converged" in first.reason
    rest = vi.fit(skewed, jnp.zeros(2), key, state=first.state)
    chex.assert_trees_all_equal(rest.state, whole.state)


def test_fit_stops_at_nan_and_returns_the_last_good_state(key):
    def fragile(z):
        return jnp.where(z[0] > 3.0, jnp.nan, 1.0) * (10.0 * z[0] - 0.1 * jnp.sum(z**2))

    family = vi.mean_field(jnp.zeros(1))
    fit = vi.fit(
        fragile,
        jnp.zeros(1),
        key,
        family=family,
        optimizer=optax.sgd(0.1),
        num_restarts=1,
        num_steps=200,
    )
    assert not fit.trusted
    assert not fit.converged
    assert fit.verdict is vi.Verdict.NOT_FINITE
    assert f"the log density is not finite at step {fit.state.step}" in fit.reason
    assert 0 <= fit.state.step < 200
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(fit.params))


def test_fit_rejects_gradients_that_a_family_does_not_have(key):
    family = vi.mean_field(jnp.zeros(1))
    blind = dataclasses.replace(family, transform=None, transform_flat=None)
    with pytest.raises(ValueError, match="`gradient` must be 'score_function'"):
        vi.fit(standard_normal, jnp.zeros(1), key, family=blind, optimizer=optax.adam(0.1),
               gradient="sticking_the_landing", num_steps=5)  # fmt: skip
    with pytest.raises(TypeError, match="`optimizer` must be an optax optimizer"):
        vi.fit(standard_normal, jnp.zeros(1), key, optimizer="adam")
    with pytest.raises(ValueError, match="`family` must have positions like `example`"):
        vi.fit(standard_normal, jnp.zeros(1), key, family=vi.full_rank(jnp.zeros(2)))


BAD_OPTIONS = {
    "key": (0, TypeError, r"must be a key; got int 0. Make one: jax.random.key\(0\)"),
    "progress": (3, TypeError, "must be a boolean or a function of step and ELBO; got int 3. Try"),
    "gradient": ("path", ValueError, "must be one of 'closed_form_entropy'"),
    "draws": ("sobol", ValueError, "must be one of 'iid', 'antithetic', 'quasi_random'"),
    "family": (3, TypeError, "must be a Family or make one; got int 3"),
    "state": (3, ValueError, "must be that of a fit with the same family"),
    "num_steps": (0, ValueError, "must be at least 1"),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_fit_checks_every_option_whether_it_is_used_or_not(name, key):
    wrong, error, words = BAD_OPTIONS[name]
    with pytest.raises(error, match=f"vi.fit: `{name}` {words}"):
        vi.fit(standard_normal, jnp.zeros(1), **({"key": key} | {name: wrong}))


def test_fit_rejects_the_state_of_another_fit(key):
    natural = vi.fit(standard_normal, jnp.zeros(2), key).state
    with pytest.raises(ValueError, match="`state` must be that of a fit with the same family"):
        vi.fit(standard_normal, jnp.zeros(1), key, state=natural)
    with pytest.raises(ValueError, match="`state` must be that of a fit with the same family"):
        vi.fit(standard_normal, jnp.zeros(2), key, state=natural, optimizer=optax.adam(0.1))
    with pytest.raises(ValueError, match="`key` must be one key"):
        vi.fit(standard_normal, jnp.zeros(2), jax.random.split(key))


def test_a_function_that_makes_families_is_no_family(key):
    with pytest.raises(TypeError, match=r"vi.elbo: `family` must be a Family.*vi.full_rank\(exam"):
        vi.elbo(standard_normal, vi.full_rank, {}, key, num_samples=2)
    with pytest.raises(TypeError, match=r"vi.diagnose: `family` must be a Family.*vi.mean_field"):
        vi.diagnose(standard_normal, vi.mean_field, {}, key)
    q = vi.mean_field(jnp.zeros(1))
    with pytest.raises(TypeError, match=r"vi.kl_divergence: `other` must be a Family"):
        vi.kl_divergence(q, q.init(), vi.mean_field, q.init())
    with pytest.raises(TypeError, match=r"vi.diagnose: `key` must be a key; got int 1"):
        vi.diagnose(standard_normal, q, q.init(), 1)


SAVED = {
    "natural": {},
    "mean_field": {"family": vi.mean_field},
    "flow": {"family": functools.partial(vi.flow, num_layers=2, hidden_size=3)},
    "own": {
        "family": vi.Family(
            "own", own_init, own_sample, own_log_prob, transform=own_transform, support=vi.simplex()
        )
    },
}


@pytest.mark.parametrize(
    "name",
    ["natural", "own", *(pytest.param(n, marks=pytest.mark.slow) for n in ("mean_field", "flow"))],
)
def test_a_saved_fit_draws_and_resumes_to_the_same_bits(name, key):
    options = SAVED[name] | ({"optimizer": optax.adam(0.05)} if name != "natural" else {})
    target = simplex_and_more if name != "own" else three_parts
    example = {"mix": jnp.ones(3) / 3, "rate": 1.0} if name != "own" else jnp.ones(3) / 3
    support = {"mix": vi.simplex(), "rate": vi.positive()} if name != "own" else None
    half = vi.fit(target, example, key, support=support, num_steps=3, **options)
    saved = pickle.loads(pickle.dumps(half))
    assert str(saved) == str(half)
    chex.assert_trees_all_equal(*(vi.posterior_draws(f, key, 10) for f in (saved, half)))
    options["family"] = saved.family
    rest = vi.fit(target, example, key, support=support, num_steps=8, state=saved.state, **options)
    whole = vi.fit(target, example, key, support=support, num_steps=8, **options)
    chex.assert_trees_all_equal(rest.state, whole.state)
    chex.assert_trees_all_equal(rest.weighted, whole.weighted)


def test_a_saved_fit_opens_in_another_process(key, tmp_path):
    fit = vi.fit(correlated, jnp.ones(2), key, family=vi.mean_field, support=vi.interval(-9.0, 9.0))
    (tmp_path / "fit").write_bytes(pickle.dumps(fit))
    code = """if True:
        import sys, pickle, jax
        jax.config.update("jax_enable_x64", True)
        fit = pickle.loads(open(sys.argv[1], "rb").read())
        from equipoise import vi
        print(vi.posterior_draws(fit, jax.random.key(0), 3).sum())
    """
    words = [sys.executable, "-c", code, tmp_path / "fit"]
    found = subprocess.run(words, capture_output=True, text=True, check=True)
    # Another process may fuse other operations.
    np.testing.assert_allclose(
        float(found.stdout), vi.posterior_draws(fit, jax.random.key(0), 3).sum(), rtol=1e-12
    )


def test_a_family_that_was_changed_is_not_saved_as_what_it_was(key):
    family = dataclasses.replace(vi.mean_field(jnp.zeros(1)), noise_size=7)
    with pytest.raises((AttributeError, pickle.PicklingError), match="local"):
        pickle.dumps(family)


def test_repr_of_a_fit_is_its_summary(key):
    fit = vi.fit(standard_normal, jnp.zeros(150), key)
    assert repr(fit) == str(fit)
    assert len(repr(fit)) < 1000
    assert repr(fit.family) == "full_rank, 150 coordinates"


def test_fit_gives_supports_to_the_family_that_it_is_asked_for(key):
    def log_density(z):
        return jnp.log(z["rate"]) - z["rate"] - 0.5 * (z["shift"] - z["rate"]) ** 2

    example, support = {"rate": 1.0, "shift": 0.0}, {"rate": vi.positive()}
    fit = vi.fit(log_density, example, key, family=vi.mean_field, support=support)
    assert fit.family == vi.mean_field(example, support=support)
    # A gamma of shape 2; four errors of 2000 draws.
    draws = vi.posterior_draws(fit, key, 4000)
    np.testing.assert_allclose(draws["rate"].mean(), 2.0, atol=4 * (2 / 2000) ** 0.5)
    again = vi.fit(log_density, example, key, family=fit.family, support=support)
    assert again.family == fit.family
    with pytest.raises(ValueError, match="`family` must have the supports that `support` says"):
        vi.fit(log_density, example, key, family=vi.full_rank(example), support=support)
    with pytest.raises(ValueError, match="`family` must have the supports that `support` says"):
        vi.fit(log_density, example, key, family=lambda e: vi.full_rank(e), support=support)


def standard_normal(z):
    return -0.5 * jnp.sum(z**2)
