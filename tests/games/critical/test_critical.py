"""The critical step size against every closed form that is known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from equipoise import games

ORIGIN = (jnp.zeros(()), jnp.zeros(()))
# A formula's threshold is the root of a modulus that rounding moves by some ε = 2e-16; the flattest
# crossing here has slope 2e-6, so that 1e-9 leaves an order of magnitude.
TOLERANCE = 1e-9


def bilinear(sigma=1.0):
    return games.zero_sum(lambda x, y: sigma * x * y)


def quadratic(mu, sigma):
    return games.zero_sum(lambda x, y: mu / 2 * x**2 + sigma * x * y - mu / 2 * y**2)


def dirac_gan(gamma):
    """Zero-centered gradient penalty γ/2·(ψ θ-derivative)² on real data at 0."""
    return games.general_sum(
        lambda t, p: jax.nn.log_sigmoid(t * p),
        lambda t, p: -jax.nn.log_sigmoid(t * p) + gamma / 2 * p**2,
    )


def critical(rule, game, at=ORIGIN, **options):
    return games.critical_step_size(game, rule, at, **{"max_step_size": 20.0, **options})


def value_and_derivatives(rule, make, field="step_size"):
    """The step and its gradient for a batch of two parameters, in one compiled call."""
    one = jax.value_and_grad(
        lambda a, b: getattr(critical(rule, make(a, b)), field), argnums=(0, 1)
    )
    return jax.jit(jax.vmap(one))


MU = np.array([1.0, 0.5, 0.1, 2.0, 1.0, 1e-3])
SIGMA = np.array([2.0, 1.0, 1.0, 1.0, 1.0, 1.0])


def test_critical_step_size_of_simultaneous_play_and_its_derivatives_match_closed_forms():
    step, (by_mu, by_sigma) = value_and_derivatives(games.simultaneous(), quadratic)(MU, SIGMA)
    square = MU**2 + SIGMA**2
    np.testing.assert_allclose(step, 2 * MU / square, rtol=TOLERANCE)
    # The derivative divides by the slope once more; the issue asks for 1e-8.
    np.testing.assert_allclose(by_mu, 2 * (SIGMA**2 - MU**2) / square**2, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(by_sigma, -4 * MU * SIGMA / square**2, rtol=1e-8)


@pytest.mark.parametrize("order", [(0, 1), pytest.param((1, 0), marks=pytest.mark.slow)])
def test_critical_step_size_of_alternating_play_and_its_derivatives_match_closed_forms(order):
    step, by = value_and_derivatives(games.alternating(order=order), quadratic)(MU, SIGMA)
    np.testing.assert_allclose(step, 2 / (MU + SIGMA), rtol=TOLERANCE)
    np.testing.assert_allclose(by, [-2 / (MU + SIGMA) ** 2] * 2, rtol=1e-8)


def smallest_real(polynomial):
    roots = np.roots(polynomial)
    return min(r.real for r in roots if abs(r.imag) < 1e-9 and r.real > 1e-9)


def test_critical_step_size_of_extragradient_is_where_the_polynomial_has_modulus_one():
    # |1 - ηw + η²w²|² = 1, divided by η, is a cubic in η.
    expected = [
        smallest_real(
            [
                abs(w) ** 4,
                -2 * (w.conjugate() * w**2).real,
                abs(w) ** 2 + 2 * (w**2).real,
                -2 * w.real,
            ]
        )
        for w in MU + 1j * SIGMA
    ]
    step, _ = value_and_derivatives(games.extragradient(), quadratic)(MU, SIGMA)
    np.testing.assert_allclose(step, expected, rtol=TOLERANCE)
    np.testing.assert_allclose(expected[:2], [0.6505294, 1.3010588], atol=5e-8)


def test_critical_step_size_of_optimistic_play_matches_known_digits():
    mu, sigma = np.array([1.0, 1.0, 0.0]), np.array([1.0, 2.0, 3.0])
    step, _ = value_and_derivatives(games.optimistic(), quadratic)(mu, sigma)
    np.testing.assert_allclose(step[:2], [0.4645205, 0.2875836], atol=5e-8)
    np.testing.assert_allclose(step[2], 1 / (3 * np.sqrt(3)), rtol=TOLERANCE)


BILINEAR = [
    (games.simultaneous(), 0.0, 0.0, games.NOT_LOST, [0, 0]),
    (games.alternating(), 0.0, 1.0, games.FLIP, [1, 2]),
    (games.extragradient(), 0.5, 0.5, games.NEIMARK_SACKER, [1, 4]),
    (games.optimistic(), 0.5 / np.sqrt(3), 0.5 / np.sqrt(3), games.NEIMARK_SACKER, [1, 6]),
    (games.proximal_point(), np.inf, np.inf, games.NOT_LOST, [0, 0]),
    (games.momentum(-0.25, order=(0, 1)), 0.75, 0.75, games.FLIP, [1, 2]),
    (games.consensus(0.3), 0.6 / 1.36, 0.6 / 1.36, games.NEIMARK_SACKER, None),
    (games.primal_dual_hybrid(1.0), 1 / np.sqrt(3), 1 / np.sqrt(3), games.FLIP, [1, 2]),
]
# Rules that are one of the above on this game, or the same rule with another number.
ALIKE = [
    (games.competitive(), np.inf, np.inf, games.NOT_LOST, [0, 0]),
    (games.momentum(-0.25), 0.0, 0.0, games.NOT_LOST, [0, 0]),
    (games.momentum(0.5), 0.0, 0.0, games.NOT_LOST, [0, 0]),
    (games.symplectic_adjustment(0.3), 0.6 / 1.36, 0.6 / 1.36, games.NEIMARK_SACKER, None),
    (games.primal_dual_hybrid(0.0), 0.0, 1.0, games.FLIP, [1, 2]),
]


@pytest.mark.parametrize(
    ("rule", "step", "neutral", "kind", "resonance"),
    [*BILINEAR, *(pytest.param(*row, marks=pytest.mark.slow) for row in ALIKE)],
    ids=[f"{row[0].name}-{i}" for i, row in enumerate([*BILINEAR, *ALIKE])],
)
def test_critical_step_size_of_the_bilinear_game_matches_closed_form(
    rule, step, neutral, kind, resonance
):
    """At σ = 2: thresholds in h = ησ are halved."""
    lost = critical(rule, bilinear(2.0))
    np.testing.assert_allclose(lost.step_size, step, rtol=TOLERANCE)
    np.testing.assert_allclose(lost.neutral_step_size, neutral, rtol=TOLERANCE)
    assert lost.kind == kind
    if resonance is not None:
        assert lost.resonance.tolist() == resonance
    assert 1 <= len(str(lost).splitlines()) <= 12


@pytest.mark.slow
def test_critical_step_size_of_the_dirac_gan_matches_closed_forms():
    gammas = np.array([0.3, 1.0])
    make = lambda gamma, _: dirac_gan(gamma)  # noqa: E731
    simultaneous, _ = value_and_derivatives(games.simultaneous(), make)(gammas, gammas)
    np.testing.assert_allclose(simultaneous, [1.2, 4.0], rtol=1e-7)
    alternating, _ = value_and_derivatives(games.alternating(), make)(gammas, gammas)
    np.testing.assert_allclose(alternating, 4 * (np.sqrt(gammas**2 + 1) - gammas), rtol=TOLERANCE)


def test_critical_step_size_of_unequal_steps_depends_on_their_product():
    def step(ratio):
        return critical(games.extragradient(), bilinear(), step_ratios=(1.0, ratio)).step_size

    value, slope = jax.jit(jax.value_and_grad(step))(jnp.asarray(4.0))
    np.testing.assert_allclose([value, slope], [1 / 2, -1 / 16], rtol=TOLERANCE)


def test_critical_step_size_derivative_follows_a_moving_equilibrium():
    """x⁴/4 − cx: x* = c^⅓, curvature 3x*², step 2/(3 c^⅔), also where x* is given as a constant."""

    def step(c):
        game = games.general_sum(lambda x: x**4 / 4 - c * x)
        return critical(
            games.simultaneous(), game, (jax.lax.stop_gradient(c) ** (1 / 3),)
        ).step_size

    value, slope = jax.jit(jax.value_and_grad(step))(jnp.asarray(8.0))
    np.testing.assert_allclose([value, slope], [1 / 6, -1 / 72], rtol=TOLERANCE)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(step))(8.0), -1 / 72, rtol=TOLERANCE)


@pytest.mark.slow
def test_critical_step_size_derivative_holds_by_a_parameter_of_the_rule():
    step = lambda beta: critical(games.momentum(beta, order=(0, 1)), bilinear()).step_size  # noqa: E731
    value, slope = jax.jit(jax.value_and_grad(step))(jnp.asarray(-0.3))
    np.testing.assert_allclose([value, slope], [1.4, 2.0], rtol=TOLERANCE)


@pytest.mark.slow
def test_critical_step_size_derivative_is_zero_where_nothing_is_lost():
    def step(sigma, rule):
        return critical(rule, bilinear(sigma)).step_size

    for rule in (games.simultaneous(), games.momentum(0.3), games.proximal_point()):  # 0, 0 and ∞
        assert jax.grad(step)(1.0, rule) == 0


def test_critical_step_size_says_where_the_eigenvalue_is_not_simple():
    twice = games.zero_sum(lambda x, y: 2 * jnp.sum(x * y))
    at = (jnp.zeros(2), jnp.zeros(2))
    assert not critical(games.extragradient(), twice, at).simple
    assert critical(games.extragradient(), bilinear(2.0)).simple


def test_critical_step_size_with_adam_is_that_of_momentum_over_epsilon():
    """At an equilibrium Adam is heavy-ball with averaged gradients over ε: 2(1 + β)/(1 − β)·ε/λ."""
    rule = games.from_optax(optax.adam(1.0, b1=0.9, eps=1e-4, eps_root=1e-12))
    with jax.numpy_dtype_promotion("standard"):
        lost = critical(rule, games.general_sum(lambda x: 2 * x**2), ORIGIN[:1])
    np.testing.assert_allclose(lost.step_size, 2 * 19 / 4 * (1e-4 + 1e-6), rtol=TOLERANCE)


def test_critical_step_size_with_adam_holds_its_second_moment():
    """At an equilibrium it is 0 by default: P = ε."""
    game, adam = games.general_sum(lambda x: 2 * x**2), optax.adam(1.0)
    with jax.numpy_dtype_promotion("standard"):
        lost = critical(games.from_optax(adam), game, ORIGIN[:1])
        # 1e-16, the root of what stands for 0, is 1e-8 of ε.
        np.testing.assert_allclose(lost.step_size, 38 / 4 * 1e-8, rtol=2e-8)
        first, *rest = adam.init(ORIGIN[0])
        for state in ((first._replace(nu=jnp.asarray(4.0)), *rest),):
            given = games.from_optax(adam, state=state)
            lost = critical(given, game, ORIGIN[:1])
            np.testing.assert_allclose(lost.step_size, 38 / 4 * (2 + 1e-8), rtol=TOLERANCE)
            assert int(lost.kind) == games.FLIP


def test_critical_step_size_holds_hyperparameters_and_runs_over_the_turns_of_counts():
    game = games.general_sum(lambda x: 2 * x**2)
    injected = optax.inject_hyperparams(optax.sgd)(learning_rate=1.0, momentum=0.9)
    turns = optax.MultiSteps(optax.sgd(1.0), 2).gradient_transformation()
    with jax.numpy_dtype_promotion("standard"):
        lost = critical(games.from_optax(injected), game, ORIGIN[:1])
        np.testing.assert_allclose(lost.step_size, 3.8 / 4, rtol=TOLERANCE)
        lost = critical(games.from_optax(turns), game, ORIGIN[:1])
        np.testing.assert_allclose(lost.step_size, 2 / 4, rtol=TOLERANCE)


def test_critical_step_size_holds_what_is_frozen():
    """A momentum that is held at rest is no momentum."""
    game, heavy = games.general_sum(lambda x: 2 * x**2), optax.sgd(1.0, momentum=0.9)
    lost = critical(games.from_optax(heavy, frozen=True), game, ORIGIN[:1])
    np.testing.assert_allclose(lost.step_size, 2 / 4, rtol=TOLERANCE)
    lost = critical(games.from_optax(heavy, frozen=False), game, ORIGIN[:1])
    np.testing.assert_allclose(lost.step_size, 3.8 / 4, rtol=TOLERANCE)


@pytest.mark.parametrize("optimizer", [optax.lion(1.0), optax.sign_sgd(1.0)])
def test_critical_step_size_rejects_optimizers_that_go_by_signs(optimizer):
    with (
        jax.numpy_dtype_promotion("standard"),
        pytest.raises(ValueError, match="a small push of the gradient in proportion"),
    ):
        critical(games.from_optax(optimizer), games.general_sum(lambda x: 2 * x**2), ORIGIN[:1])


def test_critical_step_size_is_nan_where_the_update_has_no_derivative():
    kink = optax.stateless(lambda g, x: jax.tree.map(lambda u: -jnp.sqrt(u * u), g))

    def step(game, state, step_size):
        return games.State((state.players[0] + kink.update(state.players[0], ())[0],), ())

    rule = games.Rule("kink", games.simultaneous().init, step)
    lost = critical(rule, games.general_sum(lambda x: 2 * x**2), ORIGIN[:1])
    assert np.isnan(lost.step_size)
    assert lost.kind == games.NOT_LOST


def test_critical_step_size_is_nan_where_a_spectrum_on_the_way_is():
    # The rule is no number beyond a step of 1/2; descent on x² would be lost at 1, on 9x² at 1/9.
    def step(game, state, step_size):
        (eta,) = step_size
        return plain.step(game, state, jnp.where(eta > 0.5, jnp.nan, eta))

    plain = games.simultaneous()
    rule = games.Rule("short", plain.init, step)
    slow = critical(rule, games.general_sum(lambda x: x**2), ORIGIN[:1])
    assert np.isnan(slow.step_size)
    assert np.isnan(slow.neutral_step_size)
    steep = critical(rule, games.general_sum(lambda x: 9 * x**2), ORIGIN[:1])
    np.testing.assert_allclose(steep.step_size, 1 / 9, rtol=TOLERANCE)
    np.testing.assert_allclose(steep.neutral_step_size, 1 / 9, rtol=TOLERANCE)


def test_critical_step_size_reports_the_residual_of_a_point_that_is_no_equilibrium():
    lost = critical(games.simultaneous(), quadratic(0.5, 1.0), (jnp.asarray(3.0), jnp.asarray(0.0)))
    np.testing.assert_allclose(lost.residual, 3.0)


def test_critical_step_size_of_gradient_descent_is_two_over_the_largest_curvature(rng):
    a = rng.normal(size=(6, 6))
    a = a @ a.T
    game = games.general_sum(lambda x: x @ jnp.asarray(a) @ x / 2)
    lost = critical(games.simultaneous(), game, (jnp.zeros(6),), max_step_size=1e3)
    np.testing.assert_allclose(lost.step_size, 2 / np.linalg.eigvalsh(a)[-1], rtol=TOLERANCE)


def oracle(rule, jacobian, split):
    """The update matrix of a quadratic game in NumPy, as a function of η."""
    n = len(jacobian)
    eye, zero = np.eye(n), np.zeros((n, n))
    upper = np.where(np.arange(n)[:, None] < split, jacobian, 0)
    lower = jacobian - upper
    return {
        "simultaneous": lambda h: eye - h * jacobian,
        "alternating": lambda h: (eye - h * lower) @ (eye - h * upper),
        "extragradient": lambda h: eye - h * jacobian @ (eye - h * jacobian),
        "optimistic": lambda h: np.block([[eye - 2 * h * jacobian, h * eye], [jacobian, zero]]),
    }[rule]


def first_loss(matrix, high):
    """Bisection on ρ(η) < 1 in NumPy, from a fine scan."""
    rho = lambda h: np.abs(np.linalg.eigvals(matrix(h))).max()  # noqa: E731
    scan = np.linspace(high / 400, high, 400)
    k = next(i for i, h in enumerate(scan) if rho(h) >= 1)
    low, high = scan[k - 1] if k else 0.0, scan[k]
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rho(middle) < 1 else (low, middle)
    return low


@pytest.mark.parametrize(
    ("rule", "n"),
    [
        ("extragradient", 3),
        ("optimistic", 3),
        *(
            pytest.param(rule, n, marks=pytest.mark.slow)
            for n in (3, 50)
            for rule in ("simultaneous", "alternating", "extragradient", "optimistic")
            if n == 50 or rule in ("simultaneous", "alternating")
        ),
    ],
)
def test_critical_step_size_of_random_quadratic_games_matches_numpy_float64(rule, n, rng):
    a, b, c = (rng.normal(size=(n, n)) / np.sqrt(n) for _ in range(3))
    p, q = a @ a.T + 0.1 * np.eye(n), b @ b.T + 0.1 * np.eye(n)
    jacobian = np.block([[p, c], [-c.T, q]])
    game = games.zero_sum(lambda x, y: x @ p @ x / 2 + x @ c @ y - y @ q @ y / 2)
    expected = first_loss(oracle(rule, jacobian, n), 3.0)
    lost = critical(getattr(games, rule)(), game, (jnp.zeros(n), jnp.zeros(n)), max_step_size=3.0)
    np.testing.assert_allclose(lost.step_size, expected, rtol=1e-8)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"max_step_size": -1.0}, "`max_step_size` must not be negative"),
        ({"max_step_size": np.nan}, "`max_step_size` must not be negative or NaN"),
        ({"num_evaluations": 8}, "`num_evaluations` must be at least 32"),
        ({"step_ratios": (1.0,)}, "`step_ratios` must have one entry"),
        ({"step_ratios": (1.0, -1.0)}, "`step_ratios` must not be negative"),
    ],
)
def test_critical_step_size_rejects_bad_numbers(change, match):
    with pytest.raises(ValueError, match=match):
        critical(games.simultaneous(), bilinear(), **change)


def test_critical_step_size_rejects_what_is_no_rule_or_no_player():
    with pytest.raises(TypeError, match=r"`rule` must be a Rule.*Call its constructor"):
        critical(games.simultaneous, bilinear())
    with pytest.raises(TypeError, match=r"`equilibrium\[0\]` must be a floating-point array"):
        critical(games.simultaneous(), bilinear(), (0, 0))
