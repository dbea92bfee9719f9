"""Supports: round trips, log-determinants against Jacobians, and densities that integrate to 1."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from equipoise import vi

LOWER = np.tril_indices(4, -1)
# Each with the leaf's shape and the free coordinates of the leaf, those its density is over.
SUPPORTS = {
    "real": (vi.real(), (3,), lambda x: x),
    "positive": (vi.positive(), (3,), lambda x: x),
    "interval": (vi.interval(-2.0, 0.5), (2, 2), lambda x: x),
    "above": (vi.interval(3.0, np.inf), (3,), lambda x: x),
    "below": (vi.interval(-np.inf, -1.0), (3,), lambda x: x),
    "unbounded": (vi.interval(-np.inf, np.inf), (3,), lambda x: x),
    "ordered": (vi.ordered(), (2, 3), lambda x: x),
    "simplex": (vi.simplex(), (2, 4), lambda x: x[..., :-1]),
    "cholesky_correlation": (
        vi.cholesky_correlation(),
        (2, 4, 4),
        lambda x: x[..., LOWER[0], LOWER[1]],
    ),
}


@pytest.fixture(params=SUPPORTS, name="case")
def _case(request):
    return SUPPORTS[request.param]


def test_supports_return_to_the_free_numbers(case, rng):
    support, shape, _ = case
    u = jnp.asarray(2 * rng.normal(size=support.flat_shape(shape)))
    x = support.forward(u)
    assert x.shape == shape
    assert support.contains(x)
    # Inverses lose digits where the set is thin: 1e-16 over the smallest entry, here > 1e-5.
    np.testing.assert_allclose(support.inverse(x), u, rtol=1e-9, atol=1e-9)


def test_supports_have_the_log_determinant_of_their_jacobian(case, rng):
    support, shape, coordinates = case
    flat_shape = support.flat_shape(shape)
    u = jnp.asarray(rng.normal(size=flat_shape))

    def flat(u):
        return coordinates(support.forward(u.reshape(flat_shape))).ravel()

    _, expected = jnp.linalg.slogdet(jax.jacobian(flat)(u.ravel()))
    np.testing.assert_allclose(support.log_volume(u), expected, rtol=1e-10, atol=1e-10)


def test_supports_stay_finite_far_out(case):
    support, shape, _ = case
    for u in (-80.0, 80.0):
        free = jnp.full(support.flat_shape(shape), u)
        assert jnp.isfinite(support.log_volume(free))
        gradient = jax.grad(lambda v: support.log_volume(v) + jnp.sum(support.forward(v)))(free)
        assert jnp.all(jnp.isfinite(gradient))


@pytest.mark.parametrize(
    ("support", "outside"),
    [
        (vi.positive(), jnp.array([1.0, -1.0])),
        (vi.interval(0.0, 1.0), jnp.array([0.5, 1.0])),
        (vi.interval(0.0, np.inf), jnp.array([0.5, -1.0])),
        (vi.interval(-np.inf, 0.0), jnp.array([-0.5, 1.0])),
        (vi.ordered(), jnp.array([1.0, 0.0])),
        (vi.simplex(), jnp.array([0.5, 0.6])),
        (vi.cholesky_correlation(), jnp.array([[1.0, 0.0], [0.5, 0.5]])),
        (vi.cholesky_correlation(), jnp.array([[1.0, 0.1], [0.0, 1.0]])),
        (vi.real(), jnp.array([1.0, jnp.nan])),
    ],
)
def test_log_prob_edge_outside_the_support_is_minus_infinity(support, outside):
    family = vi.mean_field(outside, support=support)
    value, gradient = jax.value_and_grad(family.log_prob)(family.init(), outside)
    assert value == -jnp.inf
    assert all(jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(gradient))


def test_positive_normal_is_log_normal():
    family = vi.mean_field(jnp.zeros(()), support=vi.positive())
    params = {"mean": jnp.array([0.4]), "log_scale": jnp.log(jnp.array([0.7]))}
    for x in (0.1, 1.0, 7.0):
        expected = scipy.stats.lognorm(s=0.7, scale=np.exp(0.4)).logpdf(x)
        np.testing.assert_allclose(family.log_prob(params, jnp.array(x)), expected, rtol=1e-13)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 2.0), (0.5, np.inf), (-np.inf, 0.5)])
def test_interval_density_integrates_to_one(low, high):
    family = vi.mean_field(jnp.zeros(()), support=vi.interval(low, high))
    density = jax.jit(lambda x: jnp.exp(family.log_prob(family.init(scale=0.8), x)))
    total, error = scipy.integrate.quad(lambda x: float(density(x)), low, high, epsabs=1e-10)
    assert abs(total - 1) < 1e-8 + error


@pytest.mark.parametrize(
    ("support", "leaf", "bounds"),
    [
        # The last entry of a simplex and the upper one of an ordered pair follow from the others.
        (vi.simplex(), lambda a, b: [a, b, 1 - a - b], lambda a: (0, 1 - a)),
        (vi.cholesky_correlation(), None, None),
    ],
)
def test_bounded_density_integrates_to_one(support, leaf, bounds):
    if leaf is None:
        family = vi.mean_field(jnp.eye(2), support=support)
        density = jax.jit(
            lambda r: jnp.exp(
                family.log_prob(
                    family.init(scale=0.8),
                    jnp.array([[1.0, 0.0], [r, jnp.sqrt(1 - r**2)]]),
                )
            )
        )
        total, _ = scipy.integrate.quad(lambda r: float(density(r)), -1, 1)
    else:
        family = vi.full_rank(jnp.ones(3) / 3, support=support)
        params = family.init(scale=jnp.array([[0.6, 0.0], [0.3, 0.5]]))
        density = jax.jit(jax.vmap(lambda x: jnp.exp(family.log_prob(params, x))))
        nodes, weights = np.polynomial.legendre.leggauss(80)
        nodes, weights = (nodes + 1) / 2, weights / 2
        a = np.repeat(nodes, 80)
        b = np.tile(nodes, 80) * (1 - a)
        grid = np.stack([a, b, 1 - a - b], axis=-1)
        values = np.asarray(density(jnp.asarray(grid)))
        total = np.sum(values * np.repeat(weights, 80) * np.tile(weights, 80) * (1 - a))
    # 80 nodes a side resolve these smooth densities to 1e-6.
    assert abs(total - 1) < 1e-6


def test_simplex_change_of_variables_matches_a_dirichlet_mean():
    """E_q[p/q] = 1 for the Dirichlet(2, 3, 4), whose density is over the first two entries."""
    family = vi.mean_field(jnp.ones(3) / 3, support=vi.simplex())
    params = family.init(scale=1.0)
    alpha = np.array([2.0, 3.0, 4.0])
    x, w = np.polynomial.hermite_e.hermegauss(60)
    flat = np.stack(np.meshgrid(x, x, indexing="ij"), -1).reshape(-1, 2)
    weight = np.outer(w, w).ravel() / (2 * np.pi)
    positions = jax.vmap(family.unravel)(jnp.asarray(flat))
    log_q = jax.vmap(family.log_prob, (None, 0))(params, positions)
    p = scipy.stats.dirichlet(alpha).pdf(np.asarray(positions).T)
    ratio = weight * p / np.exp(log_q)
    np.testing.assert_allclose(ratio.sum(), 1, rtol=1e-4)
    np.testing.assert_allclose(ratio @ np.asarray(positions), alpha / 9, rtol=1e-4)


def test_interval_rejects_bounds_in_the_wrong_order():
    with pytest.raises(ValueError, match=r"vi.interval: `low` must be below `high`.*Swap"):
        vi.interval(2.0, 1.0)
    with pytest.raises(ValueError, match="must be below"):
        vi.interval(float("nan"), 1.0)


def test_interval_edge_far_out_rounds_to_the_bound():
    family = vi.mean_field(jnp.zeros(()), support=vi.interval(0.0, 1.0))
    x = family.unravel(jnp.array([800.0]))
    assert x == 1.0
    assert family.log_prob(family.init(), x) == -jnp.inf


@pytest.mark.parametrize("make", [vi.mean_field, vi.full_rank])
@pytest.mark.parametrize(
    ("example", "support", "message"),
    [
        ({"a": 0.0}, {"b": vi.real()}, "`support` must be one support or have the structure"),
        ({"a": 0.0}, {"a": vi.positive}, r"`support['a']` must be a support.*Call it"),
        ({"a": 0.0}, {"a": vi.simplex()}, r"`example['a']` must fit vi.simplex: a last axis"),
        (0.0, vi.ordered(), "must fit vi.ordered"),
        (np.zeros((2, 3)), vi.cholesky_correlation(), "square matrices in the last two axes"),
    ],
)
def test_families_reject_supports_that_do_not_fit(make, example, support, message):
    pattern = re.escape(message).replace(r"\.\*", ".*")
    with pytest.raises(ValueError, match=pattern):
        make(example, support=support)


def test_families_take_supports_of_some_leaves_and_of_all_below_a_place():
    example = {"a": {"x": np.ones(2), "y": np.ones(())}, "b": [np.ones(3), np.ones(1)]}
    support = {"a": vi.positive(), "b": [None, vi.interval(0.0, 2.0)]}
    spelled = {"a": {"x": vi.positive(), "y": vi.positive()}, "b": [vi.real(), vi.interval(0, 2)]}
    family = vi.mean_field(example, support=support)
    assert family is vi.mean_field(example, support=spelled)
    assert vi.mean_field(example, support={"b": None}) is vi.mean_field(example)
    position = family.unravel(jnp.full(family.dimension, -1.0))
    assert jnp.all(position["a"]["x"] == jnp.exp(-1.0))
    assert jnp.all(position["b"][0] == -1)
    with pytest.raises(ValueError, match=r"got positive at \['c'\]\. Leaves that are left out"):
        vi.mean_field(example, support={"c": vi.positive()})


def test_families_on_equal_supports_are_one_object():
    first = vi.mean_field(jnp.ones(2), support=vi.interval(0.0, 2.0))
    assert vi.mean_field(jnp.zeros(2), support=vi.interval(0, 2)) is first
    assert vi.mean_field(jnp.zeros(2), support=vi.interval(0, 3)) is not first
