"""Inputs for the contract test, one entry for each name in ``vi.__all__``."""

import jax
import jax.numpy as jnp

from equipoise import vi
from tests.contract import Case, Pytree, Static

EXAMPLE = {"a": jnp.zeros(2), "b": jnp.zeros(())}
POSITION = {"a": jnp.array([0.3, -0.4]), "b": jnp.array(0.9)}
VECTOR = jnp.array([0.1, -0.2, 0.3])
ESTIMATE = vi.Estimate(jnp.array(1.0), jnp.array(0.1))


def log_density(position):
    return -jnp.sum((position["a"] - 1) ** 2) - jnp.cosh(position["b"])


def density_of(family):
    def fn(params, position):
        return family.log_prob(params, position), family.entropy(params)

    return fn


def draw_of(family):
    def fn(params, position, noise):
        return family.log_prob(params, position), family.transform(params, noise)

    return fn


def support_of(make, shape):
    def fn(flat):
        family = vi.mean_field(jnp.zeros(shape, flat.dtype), support=make())
        return family.unravel(flat), family.log_volume(flat), family.ravel(family.unravel(flat))

    return fn


FULL = vi.full_rank(EXAMPLE)
MEAN = vi.mean_field(EXAMPLE)
LOW = vi.low_rank(EXAMPLE, rank=1)
BLOCK = vi.block_diagonal(EXAMPLE)
FLOW = vi.flow(EXAMPLE, num_layers=2, hidden_size=3)
MIXTURE = vi.mixture(EXAMPLE, num_components=2)
MEAN_PARAMS = {"mean": VECTOR, "log_scale": -VECTOR}

CASES = {
    "elbo": Case(
        lambda params, key: vi.elbo(log_density, MEAN, params, key, num_samples=8),
        (MEAN_PARAMS, jax.random.key(0)),
    ),
    "elbo_terms": Case(
        lambda params, other, key: vi.elbo_terms(
            log_density, (MEAN, other), MEAN, params, key, num_samples=8
        ),
        (MEAN_PARAMS, MEAN.init(), jax.random.key(0)),
    ),
    "ElboTerms": Pytree(lambda: vi.ElboTerms(ESTIMATE, ESTIMATE, ESTIMATE)),
    "kl_divergence": Case(
        lambda params, other: vi.kl_divergence(MEAN, params, MEAN, other),
        (MEAN_PARAMS, MEAN.init(scale=2.0)),
    ),
    "free_bits": Case(lambda kl: vi.free_bits(kl, 0.05), (VECTOR,)),
    "cyclical_weight": Case(lambda t: vi.cyclical_weight(t, period=3), (jnp.array(1.25),)),
    "gradient_variance": Case(
        lambda params, key: vi.gradient_variance(
            lambda p, k: vi.elbo(log_density, MEAN, p, k, num_samples=2),
            params,
            key,
            num_repeats=4,
        ),
        (MEAN_PARAMS, jax.random.key(0)),
    ),
    "GradientVariance": Pytree(
        lambda: vi.GradientVariance(VECTOR, VECTOR, jnp.array(1.0), jnp.array(0.1), jnp.array(2.0))
    ),
    "mean_field": Case(density_of(MEAN), (MEAN_PARAMS, POSITION)),
    "full_rank": Case(density_of(FULL), ({**MEAN_PARAMS, "lower": VECTOR}, POSITION)),
    "low_rank": Case(density_of(LOW), (LOW.init(scale=0.7), POSITION)),
    "block_diagonal": Case(density_of(BLOCK), (BLOCK.init(scale=0.7), POSITION)),
    "flow": Case(draw_of(FLOW), (FLOW.init(scale=0.7), POSITION, VECTOR)),
    "mixture": Case(draw_of(MIXTURE), (MIXTURE.init(scale=0.7), POSITION, VECTOR)),
    "categorical": Case(
        lambda params, i: (
            vi.categorical(3).log_prob(params, i),
            vi.categorical(3).entropy(params),
        ),
        ({"logits": VECTOR}, jnp.array(1, jnp.int32)),
    ),
    "importance_weighted_bound": Case(
        lambda params, key: vi.importance_weighted_bound(
            log_density, MEAN, params, key, num_importance_samples=4, num_samples=2
        ),
        (MEAN_PARAMS, jax.random.key(0)),
    ),
    "renyi_bound": Case(
        lambda params, key: vi.renyi_bound(
            log_density, MEAN, params, key, alpha=0.5, num_importance_samples=4, num_samples=2
        ),
        (MEAN_PARAMS, jax.random.key(0)),
    ),
    "real": Case(support_of(vi.real, (3,)), (VECTOR,)),
    "positive": Case(support_of(vi.positive, (3,)), (VECTOR,)),
    "interval": Case(support_of(lambda: vi.interval(-1.0, 2.0), (3,)), (VECTOR,)),
    "ordered": Case(support_of(vi.ordered, (3,)), (VECTOR,)),
    "simplex": Case(support_of(vi.simplex, (4,)), (VECTOR,)),
    "cholesky_correlation": Case(support_of(vi.cholesky_correlation, (3, 3)), (VECTOR,)),
    "Support": Static("a tuple of functions; test_supports.py holds each of them"),
    "Estimate": Pytree(lambda: ESTIMATE),
    "Family": Pytree(lambda: MEAN),
    "diagnose": Case(
        lambda params, key: vi.diagnose(log_density, MEAN, params, key, num_samples=200),
        (MEAN_PARAMS, jax.random.key(0)),
        rtol=1e-6,
        rtol_float32=2e-2,
        why="noise is drawn in float32, whose rounding k̂ amplifies: its excesses are differences",
    ),
    "fit": Static("reports mistakes from values, so it is no traced function; see test_fit.py"),
    "posterior_draws": Static("draws from a Fit, whose source is static; see test_fit.py"),
    "summary": Static("takes a Fit and says what it holds; see report/test_summary.py"),
    "Summary": Pytree(
        lambda: vi.Summary(
            VECTOR,
            VECTOR,
            VECTOR[:, None],
            VECTOR,
            VECTOR,
            *[jnp.ones((3, 2))] * 2,
            ("a", "b", "c"),
            (0.5,),
            0.9,
            "why",
        )
    ),
    "calibrate": Static("fits data sets one after the other; see report/test_calibrate.py"),
    "Calibration": Pytree(
        lambda: vi.Calibration(
            jnp.ones((5, 3), int),
            jnp.ones((3, 2), int),
            jnp.ones(2),
            VECTOR,
            VECTOR,
            VECTOR > 0,
            jnp.ones(5, bool),
            ("a", "b", "c"),
            9,
        )
    ),
    "Fit": Static("made by fit alone; test_fit.py flattens and prints one"),
    "Verdict": Static("an enum; test_diagnose.py holds each of its sentences"),
    "Source": Static("an enum; test_fit.py compares it with its strings"),
    "Diagnostics": Pytree(lambda: vi.Diagnostics(*jnp.linspace(0.1, 1.0, 9))),
    "from_numpyro": Static("takes a model; see elsewhere/test_from_numpyro.py"),
    "to_arviz": Static("takes a Fit and gives NumPy; see elsewhere/test_to_arviz.py"),
}
