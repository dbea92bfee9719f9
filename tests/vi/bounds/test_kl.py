"""Divergences against quadrature-free closed forms, draws, and their laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import vi


def numpy_kl(m0, s0, m1, s1):
    inverse = np.linalg.inv(s1)
    shift = m1 - m0
    return 0.5 * (
        np.trace(inverse @ s0)
        + shift @ inverse @ shift
        - len(m0)
        + np.linalg.slogdet(s1)[1]
        - np.linalg.slogdet(s0)[1]
    )


def pair(make, rng, support=None):
    family = make(jnp.zeros(4), support=support)
    params = family.init(position=None, scale=jnp.asarray(rng.uniform(0.5, 2.0, 4)))
    params = jax.tree.map(lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape), params)
    mean, scale = family.moments(params)
    covariance = np.diag(scale**2) if scale.ndim == 1 else scale @ scale.T
    return family, params, np.asarray(mean), np.asarray(covariance)


@pytest.mark.parametrize("first", [vi.mean_field, vi.full_rank])
@pytest.mark.parametrize("second", [vi.mean_field, vi.full_rank])
def test_kl_divergence_matches_numpy_float64(first, second, rng):
    q, q_params, m0, s0 = pair(first, rng)
    p, p_params, m1, s1 = pair(second, rng)
    actual = vi.kl_divergence(q, q_params, p, p_params)
    np.testing.assert_allclose(actual, numpy_kl(m0, s0, m1, s1), rtol=1e-11)
    assert actual > 0
    # Rounding of d log-determinants and squares, each of size 1.
    assert abs(vi.kl_divergence(q, q_params, q, q_params)) < 1e-13


def test_kl_divergence_of_one_normal_pair():
    family = vi.mean_field(0.0)
    q = family.init(position=1.0, scale=2.0)
    expected = 0.5 * (4 + 1 - 1) - np.log(2.0)
    np.testing.assert_allclose(vi.kl_divergence(family, q, family, family.init()), expected)
    assert abs(expected - 1.306853) < 1e-6


def test_kl_divergence_invariant_to_a_shared_support(rng, key):
    q, q_params, m0, s0 = pair(vi.full_rank, rng, vi.positive())
    p, p_params, m1, s1 = pair(vi.mean_field, rng, vi.positive())
    closed = vi.kl_divergence(q, q_params, p, p_params)
    np.testing.assert_allclose(closed, numpy_kl(m0, s0, m1, s1), rtol=1e-11)
    sampled = vi.elbo(lambda z: p.log_prob(p_params, z), q, q_params, key, num_samples=20_000)
    assert abs(-sampled.value - closed) < 4 * sampled.standard_error


def test_kl_divergence_rejects_mistakes():
    family = vi.mean_field(jnp.zeros(2))
    other = vi.mean_field(jnp.zeros(3))
    bounded = vi.mean_field(jnp.zeros(2), support=vi.positive())
    bare = vi.Family(name="bare", init=None, sample=None, log_prob=None)
    for wrong in (other, bounded):
        with pytest.raises(ValueError, match=r"`other` must have the example and supports of"):
            vi.kl_divergence(family, family.init(), wrong, wrong.init())
    with pytest.raises(ValueError, match=r"vi.kl_divergence: `family` must be normal.*Sample it"):
        vi.kl_divergence(bare, None, family, family.init())
