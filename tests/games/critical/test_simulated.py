"""The critical step size from trajectories, against the spectrum."""

import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import games

START = (jnp.asarray(1.0), jnp.asarray(0.4))
ORIGIN = (jnp.zeros(()), jnp.zeros(()))
BILINEAR = games.zero_sum(lambda x, y: x * y)


def quadratic(x, y):
    return x**2 / 4 + x * y - y**2 / 4


RULES = [
    games.extragradient(),
    games.optimistic(),
    games.lookahead(games.simultaneous(), 3, 0.5),
]
MORE = [
    games.simultaneous(),
    games.alternating(),
    games.momentum(-0.3, order=(0, 1)),
    games.consensus(0.3),
    games.lola(0.2),
    games.primal_dual_hybrid(),
]


@pytest.mark.parametrize(
    "rule",
    [*RULES, *(pytest.param(rule, marks=pytest.mark.slow) for rule in MORE)],
    ids=[rule.name for rule in [*RULES, *MORE]],
)
def test_simulated_critical_step_size_agrees_with_the_spectrum(rule):
    game = games.zero_sum(quadratic)
    found = games.simulated_critical_step_size(
        game, rule, START, max_step_size=6.0, num_steps=1600, equilibrium=ORIGIN, num_rounds=4
    )
    exact = games.critical_step_size(game, rule, ORIGIN, max_step_size=6.0)
    # T steps resolve a rate to 4·0.05/1600 = 1.3e-4; the flattest crossing here has slope 0.3 per
    # unit of step, and a bracket holds the exact step up to the last round's width of 6/32⁴.
    np.testing.assert_allclose(found.step_size, exact.step_size, rtol=1e-3)
    assert found.low <= exact.step_size + 1e-5
    assert exact.step_size <= found.high + 1e-5


def test_simulated_critical_step_size_tells_neutral_from_lost_and_from_never():
    def find(rule):
        return games.simulated_critical_step_size(
            BILINEAR, rule, START, max_step_size=5.0, num_steps=1600, equilibrium=ORIGIN
        )

    neutral = find(games.alternating())
    assert neutral.step_size == 0
    np.testing.assert_allclose(neutral.neutral_step_size, 2.0, rtol=1e-3)
    never = find(games.proximal_point())
    assert (never.step_size, never.low, never.high) == (np.inf, 5.0, np.inf)
