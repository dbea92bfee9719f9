"""Laws of every family: exact densities, entropies, scores, and differentiable draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from equipoise import vi

EXAMPLE = {"a": jnp.zeros(2), "b": jnp.zeros(())}
FAMILIES = {
    "mean_field": vi.mean_field(EXAMPLE),
    "full_rank": vi.full_rank(EXAMPLE),
    "low_rank": vi.low_rank(EXAMPLE, rank=2),
    "block_diagonal": vi.block_diagonal(EXAMPLE),
    "flow": vi.flow(EXAMPLE, num_layers=3, hidden_size=4),
    "mixture": vi.mixture(EXAMPLE, num_components=3),
}
NORMALS = ("mean_field", "full_rank", "low_rank", "block_diagonal")


def generic(family, rng):
    """Params without symmetries."""
    return jax.tree.map(
        lambda leaf: leaf + 0.4 * jnp.asarray(rng.normal(size=leaf.shape)), family.init()
    )


@pytest.mark.parametrize("name", NORMALS)
def test_normal_families_match_numpy_float64(name, rng):
    family = FAMILIES[name]
    params = generic(family, rng)
    mean, scale = map(np.asarray, family.moments(params))
    covariance = np.diag(scale**2) if scale.ndim == 1 else scale @ scale.T
    oracle = scipy.stats.multivariate_normal(mean, covariance)
    flat = rng.normal(size=3)
    # d log-terms of size 1 each.
    actual = family.log_prob(params, family.unravel(jnp.asarray(flat)))
    np.testing.assert_allclose(actual, oracle.logpdf(flat), rtol=1e-12)
    np.testing.assert_allclose(family.entropy(params), oracle.entropy(), rtol=1e-12)
    noise = rng.normal(size=family.noise_size)
    expected = mean + (scale * noise if scale.ndim == 1 else scale @ noise)
    drawn = family.ravel(family.transform(params, jnp.asarray(noise)))
    np.testing.assert_allclose(drawn, expected, rtol=1e-12)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "low_rank"])
def test_families_density_is_that_of_the_transformed_noise(name, rng):
    """Change of variables: log q(z(ε)) = log φ(ε) − log |∂z/∂ε|, and entropy_term says the same."""
    family = FAMILIES[name]
    params = generic(family, rng)

    @jax.jit
    def both(noise):
        jacobian = jax.jacfwd(family.transform_flat, 1)(params, noise)
        log_volume = jnp.linalg.slogdet(jacobian)[1]
        position = family.transform(params, noise)
        return family.log_prob(params, position), family.entropy_term(params, noise), log_volume

    for noise in rng.normal(size=(4, 3)):
        actual, entropy_term, log_volume = both(jnp.asarray(noise))
        expected = scipy.stats.norm.logpdf(noise).sum() - log_volume
        # 1e-10: the root search of a mixture stops at 1e-15, divided by small densities.
        np.testing.assert_allclose(actual, expected, rtol=1e-10)
        closed = 1.5 * (1 + np.log(2 * np.pi))
        np.testing.assert_allclose(entropy_term, closed + log_volume, rtol=1e-10)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in ("low_rank", "mixture")))
        for name in FAMILIES
    ],
)
def test_families_have_scores_of_mean_zero_and_the_entropy_they_state(name, rng, key):
    family = FAMILIES[name]
    params = generic(family, rng)

    @jax.jit
    def scores(key):
        positions = family.sample(params, key, 20_000)
        log_q, score = jax.vmap(jax.value_and_grad(family.log_prob), (None, 0))(params, positions)
        noise = jax.random.normal(key, (20_000, family.noise_size))
        return log_q, score, jax.vmap(family.entropy_term, (None, 0))(params, noise)

    log_q, score, entropy_terms = scores(key)
    for leaf in jax.tree.leaves(score):
        error = np.std(leaf, axis=0) / 20_000**0.5
        np.testing.assert_array_less(np.abs(np.mean(leaf, axis=0)), 5 * error + 1e-12)
    difference = -np.asarray(log_q) - np.asarray(entropy_terms)
    assert abs(difference.mean()) < 4 * difference.std() / 20_000**0.5 + 1e-6
    if name in NORMALS:
        np.testing.assert_allclose(entropy_terms, family.entropy(params), rtol=1e-12)
    else:
        with pytest.raises(ValueError, match=f"vi.{name}: `entropy` must have a closed form"):
            family.entropy(params)


@pytest.mark.slow
@pytest.mark.parametrize(
    "family",
    [
        vi.flow(jnp.zeros(2), num_layers=2, hidden_size=3),
        vi.mixture(jnp.zeros(2), num_components=3),
    ],
    ids=["flow", "mixture"],
)
def test_families_integrate_to_one(family, rng):
    params = jax.tree.map(lambda p, q: (p + q) / 2, generic(family, rng), family.init())
    side = jnp.linspace(-12, 12, 400)
    grid = jnp.stack(jnp.meshgrid(side, side), -1).reshape(-1, 2)
    density = jnp.exp(jax.jit(jax.vmap(family.log_prob, (None, 0)))(params, grid))
    # The rectangle rule converges exponentially for densities that vanish at the ends.
    assert abs(float(jnp.sum(density)) * float(side[1] - side[0]) ** 2 - 1) < 1e-6


def mixture_params(rng):
    return {
        "logits": jnp.asarray(rng.normal(size=3)),
        "mean": jnp.asarray(2 * rng.normal(size=(3, 2))),
        "log_scale": jnp.asarray(0.3 * rng.normal(size=(3, 2))),
    }


@pytest.mark.slow
def test_mixture_draws_have_the_distribution_of_the_mixture(rng, key):
    family = vi.mixture(jnp.zeros(2), num_components=3)
    params = jax.tree.map(np.asarray, mixture_params(rng))
    z = np.asarray(jax.jit(family.sample, static_argnums=2)(params, key, 4000))
    weights = np.exp(params["logits"]) / np.exp(params["logits"]).sum()
    for i in range(2):

        def cdf(x, i=i):
            noise = (x[:, None] - params["mean"][:, i]) / np.exp(params["log_scale"][:, i])
            return scipy.stats.norm.cdf(noise) @ weights

        assert scipy.stats.kstest(z[:, i], cdf).pvalue > 1e-4
    expected = sum(
        w * np.outer(m, m) + w * np.diag(np.exp(2 * s))
        for w, m, s in zip(weights, params["mean"], params["log_scale"], strict=True)
    )
    cross = z[:, 0] * z[:, 1]
    assert abs(cross.mean() - expected[0, 1]) < 4 * cross.std() / 4000**0.5


@pytest.mark.slow
def test_mixture_pathwise_gradient_is_unbiased_for_every_parameter(rng, key):
    """The mean of z₁z₂ + z₁² is closed, so is its gradient; weights included."""
    family = vi.mixture(jnp.zeros(2), num_components=3)
    params = mixture_params(rng)

    def exact(params):
        m, s = params["mean"], jnp.exp(params["log_scale"])
        terms = m[:, 0] * m[:, 1] + m[:, 0] ** 2 + s[:, 0] ** 2
        return jnp.sum(jax.nn.softmax(params["logits"]) * terms)

    def one(params, noise):
        z = family.transform(params, noise)
        return z[0] * z[1] + z[0] ** 2

    n = 100_000
    noise = jax.random.normal(key, (n, 2))
    gradients = jax.jit(jax.vmap(jax.grad(one), (None, 0)))(params, noise)
    expected = jax.grad(exact)(params)
    for actual, wanted in zip(*map(jax.tree.leaves, (gradients, expected)), strict=True):
        error = np.std(actual, axis=0) / n**0.5
        np.testing.assert_array_less(np.abs(np.mean(actual, axis=0) - wanted), 4 * error + 1e-12)


@pytest.mark.slow
def test_mixture_second_derivative_matches_finite_differences(rng):
    family = vi.mixture(jnp.zeros(2), num_components=3)
    params = mixture_params(rng)
    noise = jnp.array([0.8, -0.3])

    def moved(t):
        shifted = jax.tree.map(lambda leaf: leaf + t * jnp.sin(leaf), params)
        return jnp.sum(family.transform(shifted, noise + t))

    slope = jax.jit(jax.grad(moved))
    second = jax.jit(jax.grad(jax.grad(moved)))(0.1)
    h = 1e-5
    # Central differences: error h²·f''''/6, of the order of 1e-9 here.
    np.testing.assert_allclose(slope(0.1), (moved(0.1 + h) - moved(0.1 - h)) / (2 * h), rtol=1e-6)
    np.testing.assert_allclose(second, (slope(0.1 + h) - slope(0.1 - h)) / (2 * h), rtol=1e-6)


def test_mixture_edge_far_tails_keep_their_precision():
    """Beyond the last of two components far apart, half the mass is that component's."""
    family = vi.mixture(jnp.zeros(1), num_components=2)
    params = {
        "logits": jnp.zeros(2),
        "mean": jnp.array([[-50.0], [50.0]]),
        "log_scale": jnp.zeros((2, 1)),
    }
    noise = np.array([-30.0, -6.0, 6.0, 30.0])
    quantile = jax.value_and_grad(lambda e: family.transform(params, e[None])[0])
    z, slope = map(np.asarray, jax.jit(jax.vmap(quantile))(jnp.asarray(noise)))
    beyond = np.abs(z) - 50
    expected = np.log(2) + scipy.stats.norm.logcdf(-np.abs(noise))
    np.testing.assert_allclose(scipy.stats.norm.logcdf(-beyond), expected, rtol=1e-10)
    # ∂z/∂ε is the ratio of densities at equal distribution functions.
    ratio = scipy.stats.norm.logpdf(noise) - scipy.stats.norm.logpdf(beyond) + np.log(2)
    np.testing.assert_allclose(slope, np.exp(ratio), rtol=1e-9)


@pytest.mark.parametrize("name", FAMILIES)
def test_families_start_where_they_are_told(name, key):
    family = FAMILIES[name]
    position = {"a": jnp.array([1.0, -2.0]), "b": jnp.array(3.0)}
    scale = jnp.array([0.5, 1.0, 2.0])
    params = family.init(key, position=position, scale=scale)
    draws = jax.vmap(family.ravel)(family.sample(params, key, 4000))
    spread = scale * (2.0**0.5 if name == "mixture" else 1.0)
    error = spread / 4000**0.5
    np.testing.assert_array_less(
        jnp.abs(jnp.mean(draws, axis=0) - family.ravel(position)), 5 * error
    )
    if name != "mixture":
        # 5 standard errors of a standard deviation, 1/sqrt(2n); a small W adds 1e-4.
        np.testing.assert_allclose(jnp.std(draws, axis=0), scale, rtol=5 / 8000**0.5 + 1e-3)


@pytest.mark.parametrize("make", [vi.full_rank, vi.flow])
def test_families_take_a_cholesky_factor(make):
    factor = jnp.array([[2.0, 0.0], [1.0, 3.0]])
    family = make(jnp.zeros(2))
    params = family.init(position=jnp.ones(2), scale=factor)
    drawn = family.transform(params, jnp.array([0.5, -1.0]))
    np.testing.assert_allclose(drawn, np.ones(2) + factor @ np.array([0.5, -1.0]), rtol=1e-12)


def test_full_rank_and_low_rank_are_invariant_to_units():
    """Other units of a coordinate shift its log scale and nothing else."""
    units = jnp.array([1.0, 1e-3, 1e4])
    for family in (vi.full_rank(jnp.zeros(3)), vi.low_rank(jnp.zeros(3), rank=1)):
        params = jax.tree.map(lambda leaf: leaf + 0.3, family.init())
        scaled = {
            **params,
            "mean": params["mean"] * units,
            "log_scale": params["log_scale"] + jnp.log(units),
        }
        noise = jnp.linspace(-1.0, 1.0, family.noise_size)
        np.testing.assert_allclose(
            family.transform(scaled, noise), family.transform(params, noise) * units, rtol=1e-12
        )


def test_block_diagonal_edge_single_block_is_full_rank(rng):
    full, block = vi.full_rank(EXAMPLE), vi.block_diagonal(EXAMPLE, blocks=(3,))
    params = generic(full, rng)
    position = full.unravel(jnp.asarray(rng.normal(size=3)))
    actual = block.log_prob({**params, "lower": (params["lower"],)}, position)
    np.testing.assert_allclose(actual, full.log_prob(params, position), rtol=1e-13)


def test_flow_edge_single_coordinate_is_a_normal(rng):
    family = vi.flow(jnp.zeros(()), num_layers=2, hidden_size=2)
    params = generic(family, rng)
    x = jnp.linspace(-3, 3, 5)
    log_q = jax.vmap(family.log_prob, (None, 0))(params, x)
    # Second differences of a quadratic are equal.
    np.testing.assert_allclose(np.diff(log_q, 3), 0, atol=1e-10)


def test_categorical_matches_its_definition(key):
    family = vi.categorical(3)
    params = {"logits": jnp.array([0.0, 1.0, -jnp.inf])}
    q = np.array([1, np.e, 0]) / (1 + np.e)
    np.testing.assert_allclose(
        jnp.exp(jnp.stack([family.log_prob(params, jnp.array(i)) for i in range(3)])), q, rtol=1e-12
    )
    np.testing.assert_allclose(family.entropy(params), scipy.stats.entropy(q), rtol=1e-12)
    draws = np.asarray(family.sample(params, key, 10_000))
    assert draws.max() == 1
    assert abs(draws.mean() - q[1]) < 4 * 0.5 / 100
    np.testing.assert_allclose(family.entropy(family.init()), np.log(3), rtol=1e-6)


def test_gibbs_principle_bounds_attention_log_sum_exp(key):
    """log Σ e^s = max over q of Σ q s + H(q), at softmax(s): there, every single draw says so."""
    scores = jnp.array([0.3, -1.2, 2.0, 0.1])
    family = vi.categorical(4)

    def bound(logits, key):
        return vi.elbo(
            lambda i: scores[i],
            family,
            {"logits": logits},
            key,
            num_samples=4,
            gradient="score_function",
        )

    at_softmax = bound(scores, key)
    np.testing.assert_allclose(at_softmax.value, jax.nn.logsumexp(scores), rtol=1e-14)
    assert at_softmax.standard_error < 1e-15
    np.testing.assert_allclose(jax.grad(lambda s: bound(s, key).value)(scores), 0, atol=1e-15)
    for other in jax.random.normal(key, (20, 4)):
        q = jax.nn.softmax(other)
        exact = q @ scores + family.entropy({"logits": other})
        gap = jax.nn.logsumexp(scores) - exact
        np.testing.assert_allclose(gap, jnp.sum(q * jnp.log(q / jax.nn.softmax(scores))), rtol=1e-9)
        assert gap > 0


@pytest.mark.parametrize(
    "make",
    [
        vi.mean_field,
        vi.full_rank,
        lambda example: vi.low_rank(example, rank=1),
        vi.block_diagonal,
        vi.flow,
        lambda example: vi.mixture(example, num_components=2),
    ],
)
def test_families_reject_bad_examples(make):
    with pytest.raises(TypeError, match=r"`example\['n'\]` must be floating-point; got int.*sum a"):
        make({"n": np.arange(3), "x": jnp.zeros(2)})
    with pytest.raises(ValueError, match="`example` must have at least one array leaf"):
        make({})


def test_families_reject_bad_options(key):
    mistakes = [
        (r"vi.low_rank: `rank` must be at least 1", vi.low_rank, {"rank": 0}),
        (r"vi.flow: `num_layers` must be at least 1", vi.flow, {"num_layers": 0}),
        (r"vi.flow: `hidden_size` must be at least 1", vi.flow, {"hidden_size": 0}),
        (r"vi.mixture: `num_comp.* at least 1", vi.mixture, {"num_components": 0}),
        (r"`blocks` must be .* to the 3 flat", vi.block_diagonal, {"blocks": (1, 1)}),
    ]
    for words, make, options in mistakes:
        with pytest.raises(ValueError, match=words):
            make(EXAMPLE, **options)
    for error, words, number in (
        (ValueError, r"vi.categorical: `num_categories` must be at least 1", 0),
        (TypeError, r"`num_categories` must be a Python integer", 2.5),
    ):
        with pytest.raises(error, match=words):
            vi.categorical(number)
    with pytest.raises(TypeError, match=r"vi.categorical: `position` must be an integer"):
        vi.categorical(2).log_prob({"logits": jnp.zeros(2)}, jnp.array(1.0))
    family = FAMILIES["mean_field"]
    with pytest.raises(ValueError, match=r"vi.mean_field: `num_samples` must be at least 1"):
        family.sample(family.init(), key, 0)
    with pytest.raises(ValueError, match=r"`position` must look like the example.*jax.vmap"):
        family.log_prob(family.init(), {"a": jnp.zeros((5, 2)), "b": jnp.zeros(5)})


@pytest.mark.parametrize("name", FAMILIES)
def test_families_of_equal_examples_are_one_object(name):
    makers = {
        "low_rank": lambda e: vi.low_rank(e, rank=2),
        "flow": lambda e: vi.flow(e, num_layers=3, hidden_size=4),
        "mixture": lambda e: vi.mixture(e, num_components=3),
    }
    make = makers.get(name, getattr(vi, name))
    assert make(jax.tree.map(jnp.ones_like, EXAMPLE)) is FAMILIES[name]
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), EXAMPLE)
    assert make(shapes) is FAMILIES[name]


def test_families_keep_the_dtype_of_each_leaf(key):
    example = {"x": jnp.zeros(2, jnp.float32), "y": jnp.zeros(3, jnp.bfloat16)}
    family = vi.full_rank(example)
    draws = family.sample(family.init(), key, 2)
    assert draws["x"].dtype == jnp.float32
    assert draws["y"].dtype == jnp.bfloat16
