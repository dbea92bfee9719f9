"""The flow's maps undo each other, and its draws are trusted where nothing else is, and right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import vi
from equipoise.vi._stages.beginning import Beginning, Drawn
from equipoise.vi._stages.coupling import Couplings, first_couplings, last_order, mapped
from equipoise.vi._stages.flow import draw_by_flow, left_out
from equipoise.vi._starts.normals import no_modes
from equipoise.vi._target.target import trace
from equipoise.vi._weights.diagnose import summarize
from equipoise.vi._weights.verdict import NO_DOUBT, verdict
from equipoise.vi._weights.weighted import moments, weigh
from tests.vi.fit import hard
from tests.vi.fit.test_escalation import errors
from tests.vi.programs import counted


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


def beginning_at(target, particles, budget):
    """Where the stage begins after particles of the target, with a budget in operations."""
    asked = trace(target.log_density, vi.full_rank(target.example))
    zero = np.zeros(len(particles))
    weighted = weigh(particles, zero, zero)
    return Beginning(
        density=asked.log_density,
        positions=asked.positions,
        dtype=asked.dtype,
        mean=target.mean,
        factor=np.diag(target.sd),
        modes=no_modes(len(target.mean)),
        values=asked.values,
        gradients=asked.gradients,
        rng=np.random.default_rng(3),
        work=asked.log_density.work,
        budget=budget,
        particles=Drawn(weighted, summarize(weighted), NO_DOUBT),
    )


@pytest.mark.slow
def test_flow_draws_what_it_learned_from_few_particles_by_two_programs():
    target, rng = hard.banana(bend=0.5, wide=1.5), np.random.default_rng(4)
    x = 1.5 * rng.standard_normal(500)
    particles = np.stack([x, 0.5 * (x**2 - 1.5**2) + rng.standard_normal(500)], axis=1)
    start = beginning_at(target, particles, budget=2e9)
    start.values(particles)  # is compiled before
    with counted() as programs:
        drawn = draw_by_flow(start)
    assert len(programs) == 2
    assert verdict(drawn.found) is vi.Verdict.TRUSTED
    assert not drawn.doubt
    found = moments(drawn.weighted.draws, drawn.weighted.log_weights)
    # Four standard errors; 500 particles alone have one of 0.045 of a mean.
    np.testing.assert_array_less(np.abs(found.mean - target.mean), 4 * found.mean_error)
    np.testing.assert_array_less(np.abs(found.sd - target.sd), 4 * found.sd_error)
    assert np.max(found.mean_error / found.sd) < 0.02
    assert abs(drawn.found.log_evidence) < 4 * drawn.found.log_evidence_error


def test_flow_needs_particles_and_a_budget():
    target = hard.banana()
    start = beginning_at(target, np.ones((200, 2)), budget=1e10)
    assert draw_by_flow(start._replace(particles=None)) is None
    assert draw_by_flow(start) is None  # all of them at one point have no normal
    dear = draw_by_flow(start._replace(budget=1e6))
    assert dear.work > 1e6
    assert draw_by_flow(start._replace(budget=dear.work)) is None  # it began


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
    # Of twenty coordinates particles of one seed or the other are enough.
    assert fit.source in (vi.Source.FLOW, *[vi.Source.ANNEALED] * (pairs > 1))
    mean, sd = errors(target, fit, key)
    assert mean < 0.25
    assert sd < 0.1
    if fit.source is vi.Source.FLOW:
        assert abs(fit.draw_diagnostics.log_evidence) < 0.05  # it is normalized
