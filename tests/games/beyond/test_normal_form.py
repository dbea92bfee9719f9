"""Normal forms against closed forms, against exact cycles, and against play beyond the step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import games

ORIGIN = (jnp.zeros(()), jnp.zeros(()))
# Coefficients are products of derivatives and solves of well-conditioned matrices: rounding.
EXACT = 1e-10


def form_of(game, rule, at, limit=20.0):
    critical = games.critical_step_size(game, rule, at, max_step_size=limit)
    return games.normal_form(game, rule, at, critical)


def logistic():
    """The step size as the parameter r of x -> r x (1 − x)."""

    def step(game, state, step_size):
        (x,), (r,) = state.players, step_size
        return games.State((r * x * (1 - x),), ())

    return games.Rule("logistic", lambda game, players, step_size: games.State(players, ()), step)


def test_normal_form_of_the_logistic_map_is_nine_and_its_cycle_is_exact():
    form = form_of(games.general_sum(lambda x: x**2), logistic(), (2 / 3,), 3.5)
    np.testing.assert_allclose([form.coefficient, form.step_size, form.speed], [9, 3, 1], EXACT)
    assert form.supercritical
    assert (form.kind, form.outcome) == (games.FLIP, games.Outcome.SOFT)
    # Its cycle is [(r + 1) ± √((r − 3)(r + 1))]/2r: to first order in r − 3, √(r − 3)/3.
    r = 3 + 1e-6
    exact = np.sqrt((r - 3) * (r + 1)) / (2 * r)
    np.testing.assert_allclose(form.amplitude(r), exact, rtol=1e-6)
    assert form.amplitude(2.9) == 0


@pytest.mark.parametrize(("third", "fourth"), [(2.0, 0.0), (1.0, 5.0), (0.0, -3.0), (0.3, 0.9)])
def test_normal_form_of_gradient_descent_matches_the_closed_form(third, fourth):
    """c = (L‴/L″)² − L⁗/(3L″), ε = (η − η*)L″."""
    loss = lambda x: 1.7 * x**2 / 2 + third * x**3 / 6 + fourth * x**4 / 24  # noqa: E731
    form = form_of(games.general_sum(loss), games.simultaneous(), (0.0,))
    np.testing.assert_allclose(form.coefficient, (third / 1.7) ** 2 - fourth / 3 / 1.7, rtol=EXACT)
    np.testing.assert_allclose(form.speed, 1.7, rtol=EXACT)
    assert form.supercritical == (3 * third**2 > 1.7 * fourth)


def bowl(x):
    """Two curvatures, coupled so that the other direction takes part in the cycle of the first."""
    return 1.5 * x[0] ** 2 + 0.4 * x[1] ** 2 + 0.3 * x[0] ** 2 * x[1] + 0.5 * x[0] ** 3


@pytest.mark.parametrize(
    "rule",
    [
        games.simultaneous(),
        games.momentum(0.5),
        *(
            pytest.param(rule, marks=pytest.mark.slow)
            for rule in (
                games.optimistic(),
                games.momentum(-0.3),
                games.lookahead(games.simultaneous(), 3, 0.5),
            )
        ),
    ],
    ids=lambda rule: rule.name,
)
def test_normal_form_predicts_the_cycle_of_a_coupled_loss(rule):
    game, at = games.general_sum(bowl), (jnp.zeros(2),)
    form = form_of(game, rule, at)
    assert (form.kind, form.outcome) == (games.FLIP, games.Outcome.SOFT)
    beyond = form.step_size * (1 + 1e-4)
    (x,) = games.simulate(game, rule, (jnp.full(2, 1e-2),), step_size=beyond, num_steps=40_000)
    played = (x[-1] - x[-2]) / 2
    # The next order is a relative ε = 3e-4.
    np.testing.assert_allclose(jnp.linalg.norm(played), form.amplitude(beyond), rtol=2e-3)
    along = jnp.abs(played @ form.direction[0]) / jnp.linalg.norm(played)
    np.testing.assert_allclose(along, 1, rtol=1e-3)


def spiral(p0, k):
    """The field (p + i)z with p = p₀ + k|z|²: simultaneous play maps circles to circles."""
    potential = lambda x, y: p0 / 2 * (x**2 + y**2) + k / 4 * (x**2 + y**2) ** 2  # noqa: E731
    return games.general_sum(
        lambda x, y: potential(x, y) - x * y, lambda x, y: potential(x, y) + x * y
    )


@pytest.mark.parametrize("k", [0.7, -0.7])
def test_normal_form_predicts_the_invariant_circle(k):
    """A circle stays where p = q = (1 − √(1 − η²))/η, that is r² = (q − p₀)/k."""
    form = form_of(spiral(0.2, k), games.simultaneous(), ORIGIN)
    assert form.kind == games.NEIMARK_SACKER
    assert form.supercritical == (k > 0)
    assert form.outcome == (games.Outcome.SOFT if k > 0 else games.Outcome.HARD)
    eta = form.step_size + 1e-7 * k
    radius = np.sqrt(((1 - np.sqrt(1 - eta**2)) / eta - 0.2) / k)
    np.testing.assert_allclose(form.amplitude(eta), radius, rtol=1e-5)
    assert form.amplitude(form.step_size - 1e-7 * k) == 0


@pytest.mark.slow
@pytest.mark.parametrize("rule", [games.optimistic(), games.extragradient()])
def test_normal_form_predicts_the_distance_of_a_closed_curve_that_is_no_circle(rule):
    def payoff(x, y):
        return x**2 / 4 + x * y - y**2 / 5 + 0.3 * x**3 - 0.3 * x**4 + 0.3 * y**4

    game = games.zero_sum(payoff)
    form = form_of(game, rule, ORIGIN)
    assert (form.kind, form.outcome) == (games.NEIMARK_SACKER, games.Outcome.SOFT)
    eta = form.step_size * (1 + 2.5e-4)
    path = games.simulate(game, rule, (0.02, 0.0), step_size=eta, num_steps=60_000)
    square = sum(jnp.mean(x[-30_000:] ** 2) for x in path)
    # The next order is relative to ε: 8e-3 at four times this distance from the step.
    np.testing.assert_allclose(jnp.sqrt(square), form.amplitude(eta), rtol=5e-3)


def test_normal_form_of_a_fold_is_one_sided_or_symmetric():
    """Extragradient is lost at ηλ = 1, where it has other fixed points: F(x − ηF(x)) = 0."""
    crooked = games.general_sum(lambda x: x**2 / 2 + 0.1 * x**3)
    form = form_of(crooked, games.extragradient(), (0.0,))
    assert (form.kind, form.outcome) == (games.FOLD, games.Outcome.ONE_SIDED)
    assert not form.supercritical
    # b is half the second derivative; at η = 1 + ε the other point is at ε/b.
    np.testing.assert_allclose([form.coefficient, form.amplitude(1.01)], [0.3, 0.01 / 0.3], 1e-9)
    for sign in (1, -1):
        even = games.general_sum(lambda x, sign=sign: x**2 / 2 - sign * 0.1 * x**4)
        form = form_of(even, games.extragradient(), (0.0,))
        np.testing.assert_allclose(form.coefficient, -0.4 * sign, rtol=1e-9)
        assert form.supercritical == (sign > 0)


def test_normal_form_says_where_flat_directions_decide():
    """(xy − 1)²/2 has a valley xy = 1; its steepness x² + y² changes along it but at (1, 1)."""
    game = games.general_sum(lambda x: (x[0] * x[1] - 1) ** 2 / 2)
    still = form_of(game, games.simultaneous(), (jnp.ones(2),))
    assert still.outcome == games.Outcome.SOFT
    form = form_of(game, games.simultaneous(), (jnp.array([2.0, 0.5]),))
    assert form.outcome == games.Outcome.DRIFTS
    assert np.isnan(form.coefficient)
    assert not form.supercritical
    # A step at r along q moves z by η/2 of the change of qᵀHq along the valley, times r².
    q, valley = np.array([0.5, 2.0]) / np.sqrt(4.25), np.array([2.0, -0.5]) / np.sqrt(4.25)
    third = jax.jacfwd(jax.hessian(lambda x: (x[0] * x[1] - 1) ** 2 / 2))(jnp.array([2.0, 0.5]))
    along = float(form.step_size) * np.einsum("ijk,i,j,k", third, q, q, valley)
    np.testing.assert_allclose(form.drift, abs(along), rtol=EXACT)


@pytest.mark.parametrize(
    ("game", "rule", "at", "outcome"),
    [
        (lambda x, y: x * y, games.extragradient(), ORIGIN, "RESONANT"),
        (lambda x, y: x * y, games.simultaneous(), ORIGIN, "NOTHING"),
        (lambda x, y: x**2 - y**2, games.simultaneous(), ORIGIN, "REPEATED"),
        (lambda x, y: x**2 - y**2 / 2, games.simultaneous(), ORIGIN, "VANISHES"),
    ],
)
def test_normal_form_says_why_there_is_none(game, rule, at, outcome):
    form = form_of(games.zero_sum(game), rule, at)
    assert form.outcome == games.Outcome[outcome]
    assert not form.supercritical
    assert form.outcome == games.Outcome.VANISHES or np.isnan(form.coefficient)
    assert games.Outcome[outcome].sentence in str(form)


def test_normal_form_rejects_what_is_no_critical_step():
    game = games.general_sum(lambda x: x**2)
    with pytest.raises(TypeError, match=r"`critical` must be a CriticalStep.*critical_step_size"):
        games.normal_form(game, games.simultaneous(), (0.0,), 1.0)
