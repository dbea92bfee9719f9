"""The flow's maps undo each other, and its draws are trusted where nothing else is, and right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import vi
from equipoise.vi._stages.coupling import Couplings, first_couplings, last_order, mapped
from equipoise.vi._stages.flow import left_out
from equipoise.vi._weights.weighted import weigh
from tests.vi.fit import hard
from tests.vi.fit.test_escalation import errors


@pytest.mark.parametrize("size", [1, 2, 5])
def test_flow_starts_at_the_identity(size):
    rng = np.random.default_rng(0)
    now, orders = first_couplings(rng, size, 3, 4, np.dtype(float))
    x = rng.standard_normal((size, 7))
    image, log_volume = mapped(now.couplings, orders, x, 0)
    np.testing.assert_array_equal(image, x[last_order(orders)])
    np.testing.assert_array_equal(log_volume, 0)


@pytest.mark.parametrize("size", [2, 5])
def test_flow_is_undone_and_its_volume_is_that_of_its_derivative(size):
    rng = np.random.default_rng(1)
    now, orders = first_couplings(rng, size, 3, 4, np.dtype(float))
    couplings = Couplings(*(0.5 * rng.standard_normal(x.shape) for x in now.couplings))
    x = rng.standard_normal((size, 7))
    image, log_volume = mapped(couplings, orders, x, 0)
    assert np.min(np.max(np.abs(image - x[last_order(orders)]), axis=1)) > 0.1
    back, log_volume_back = mapped(couplings, orders, image, 1)
    # Six layers, of factors up to e², round a few times each.
    np.testing.assert_allclose(back, x, atol=1e-12)
    np.testing.assert_allclose(log_volume_back, log_volume, atol=1e-12)
    slope = jax.jacobian(lambda x: mapped(couplings, orders, x[:, None], 0)[0][:, 0])(x[:, 0])
    np.testing.assert_allclose(np.linalg.slogdet(slope)[1], log_volume[0], atol=1e-12)


def test_draws_that_leave_a_mode_out_lack_its_moments():
    """Two normals with equal parts, and a q that has one of them: half of all is missing."""
    rng = np.random.default_rng(2)
    center = np.array([10.0, 0.0])
    log_q, log_other = (lambda z, at=at: -0.5 * np.sum((z - at) ** 2, 1) for at in (0.0, center))

    def log_p(z):
        return np.logaddexp(log_q(z), log_other(z))

    draws = rng.standard_normal((4096, 2))
    ours = weigh(draws, log_p(draws), log_q(draws))
    there = np.concatenate([draws[::2], draws[1::2] + center])
    zero = np.zeros(len(there))
    doubt = left_out(ours, weigh(there, zero, zero), log_p(there) - log_q(there))
    assert doubt.place == 0
    # Half of the particles are 10 sds away; the moments of 2048 of them err by 0.02 sd.
    np.testing.assert_allclose(doubt.mean, 5, atol=0.1)
    assert not left_out(ours, weigh(draws, zero, zero), log_p(draws) - log_q(draws))


def turned_bananas(pairs):
    """Pairs of a banana, turned so that every coordinate bends every other."""
    straight = hard.banana(pairs, 0, bend=0.5, wide=1.5)
    d = 2 * pairs
    turn = np.linalg.qr(np.random.default_rng(5).standard_normal((d, d)))[0]
    mean, covariance = turn @ straight.mean, turn @ np.diag(straight.sd**2) @ turn.T
    back = jnp.asarray(turn.T)
    log_density = lambda z: straight.log_density(back @ z)  # noqa: E731
    return hard.Target(log_density, straight.example, mean, np.diagonal(covariance) ** 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("pairs", [1, 10])
def test_flow_of_turned_bananas_is_trusted_and_right(key, pairs):
    target = turned_bananas(pairs)
    fit = vi.fit(target.log_density, target.example, key)
    assert fit.trusted, fit.reason
    assert fit.source is vi.Source.FLOW
    mean, sd = errors(target, fit, key)
    assert mean < 0.25
    assert sd < 0.1
    assert abs(fit.draw_diagnostics.log_evidence) < 0.05  # it is normalized
