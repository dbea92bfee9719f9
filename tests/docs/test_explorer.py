"""The explorer's JavaScript computes what the library computes: every rule on every game."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import games

SCRIPT = pathlib.Path(__file__).parents[2] / "docs" / "_static" / "explorer" / "games.js"
pytestmark = pytest.mark.slow

ORIGIN = (jnp.zeros(()), jnp.zeros(()))
NUM_STEPS = 25


def quadratic(mu, sigma):
    return games.zero_sum(lambda x, y: mu / 2 * x**2 + sigma * x * y - mu / 2 * y**2)


def dirac(gamma):
    return games.zero_sum(lambda x, y: jax.nn.log_sigmoid(x * y) - gamma / 2 * y**2)


# Game, names of its parameters in the script, and their values. Of the quadratic game the last one
# is pq, which the script also offers by its own name.
GAMES = {
    "quadratic": (quadratic, ("mu", "sigma"), [(0.5, 1.0), (1.5, 0.5), (0.0, 1.0)]),
    "dirac": (dirac, ("gamma",), [(0.0,), (0.5,), (1.7,)]),
}
# Rule and the values of its parameter, of which None is none.
RULES = {
    "simultaneous": (lambda _: games.simultaneous(), [None]),
    "alternating": (lambda _: games.alternating(), [None]),
    "extragradient": (lambda _: games.extragradient(), [None]),
    "optimistic": (lambda _: games.optimistic(), [None]),
    "momentum": (games.momentum, [-0.5, 0.3]),
    "alternating_momentum": (lambda beta: games.momentum(beta, order=(0, 1)), [-0.5, 0.3]),
    "consensus": (games.consensus, [0.5, 1.2]),
    "symplectic_adjustment": (games.symplectic_adjustment, [0.5, 1.2]),
    "lola": (games.lola, [0.5, 1.2]),
    "competitive": (lambda _: games.competitive(), [None]),
    "proximal_point": (lambda _: games.proximal_point(), [None]),
    "primal_dual_hybrid": (games.primal_dual_hybrid, [0.0, 0.5, 1.0]),
}
CASES = [(game, rule) for game in GAMES for rule in RULES]
# The search for the critical step compiles for seconds; the spectra it rests on are all compared.
SEARCHED = [(game, rule) for game, rule in CASES if game == "quadratic" or rule == "extragradient"]


@pytest.fixture(scope="module")
def script(browser):
    page = browser.new_page()
    page.add_script_tag(path=SCRIPT)
    yield page
    page.close()


def settings(game, rule):
    for values in GAMES[game][2]:
        for parameter in RULES[rule][1]:
            yield values, parameter


def ask(script, function, game, rule, values, parameter, *arguments):
    """The script's answer for a game and a rule of these parameters."""
    named = dict(zip(GAMES[game][1], values, strict=True))
    game = "pq" if (game, values) == ("quadratic", (0.0, 1.0)) else game
    return script.evaluate(
        """([f, game, rule, named, parameter, args]) =>
           equipoise[f](
             equipoise.GAMES[game].make(named), equipoise.RULES[rule], parameter, ...args)""",
        [function, game, rule, named, parameter, list(arguments)],
    )


def test_the_script_offers_what_is_compared_here(script):
    assert script.evaluate("Object.keys(equipoise.GAMES)") == ["pq", *GAMES]
    assert script.evaluate("Object.keys(equipoise.RULES)") == list(RULES)
    named = "game => equipoise.GAMES[game].parameters.map(p => p.id)"
    for name, (_, parameters, _) in GAMES.items():
        assert script.evaluate(named, name) == list(parameters)
    for name, (_, values) in RULES.items():
        has = script.evaluate("rule => equipoise.RULES[rule].parameter !== null", name)
        assert has == (values != [None])


@pytest.mark.parametrize(("game", "rule"), CASES)
def test_trajectories_agree(script, game, rule):
    make_game, make_rule = GAMES[game][0], RULES[rule][0]
    start = (1.0, -0.7)

    @jax.jit
    def play(values, parameter, eta):
        return games.simulate(
            make_game(*values),
            make_rule(parameter),
            tuple(map(jnp.asarray, start)),
            step_size=eta,
            num_steps=NUM_STEPS,
        )

    for values, parameter in settings(game, rule):
        for eta in (0.1, 0.75):
            expected = np.stack(play(values, parameter, eta), 1)
            path = ask(script, "simulate", game, rule, values, parameter, start, eta, NUM_STEPS)
            # A step loses a few ε; 25 steps of growth below 10 keep the relative error that small.
            bound = 1e-9 * np.abs(expected).max()
            np.testing.assert_allclose(path, expected, rtol=0, atol=bound)


@pytest.mark.parametrize(("game", "rule"), CASES)
def test_spectra_and_verdicts_agree(script, game, rule):
    make_game, make_rule = GAMES[game][0], RULES[rule][0]

    @jax.jit
    def judge(values, parameter, eta):
        zero_sum, played = make_game(*values), make_rule(parameter)
        step, ravel, _ = games.update_map(zero_sum, played, eta)
        matrix = jax.jacfwd(step)(ravel(played.init(zero_sum, ORIGIN, eta)))
        found = games.stability(zero_sum, played, ORIGIN, step_size=eta)
        return found.verdict, found.spectral_radius, jnp.linalg.eigvals(matrix)

    words = {games.CONVERGES: "converges", games.NEUTRAL: "neutral", games.DIVERGES: "diverges"}
    for values, parameter in settings(game, rule):
        # 1 and 2 are borders of many rules on pq.
        for eta in (0.05, 0.5, 1.0, 1.37, 2.0, 2.9):
            verdict, radius, expected = judge(values, parameter, eta)
            found = ask(script, "spectrum", game, rule, values, parameter, eta)
            # √ε for eigenvalues that meet, with a margin for their condition.
            scale = max(1.0, float(radius))
            assert abs(found["radius"] - radius) < 1e-6 * scale
            assert farthest([complex(*v) for v in found["values"]], expected) < 1e-6 * scale
            assert found["verdict"] == words[int(verdict)], (values, parameter, eta)


@pytest.mark.parametrize(("game", "rule"), SEARCHED)
def test_critical_steps_agree(script, game, rule):
    make_game, make_rule = GAMES[game][0], RULES[rule][0]
    largest = script.evaluate("game => equipoise.GAMES[game].maxStep", game)

    @jax.jit
    def lost(values, parameter):
        return games.critical_step_size(
            make_game(*values), make_rule(parameter), ORIGIN, max_step_size=largest
        )

    kinds = ["not lost", "fold", "flip", "Neimark-Sacker"]
    for values, parameter in settings(game, rule):
        expected = lost(values, parameter)
        found = ask(script, "scan", game, rule, values, parameter, largest, 300)
        # JSON has no infinity, but the browser's own protocol has.
        np.testing.assert_allclose(found["step"], expected.step_size, rtol=1e-5)
        np.testing.assert_allclose(found["neutral"], expected.neutral_step_size, rtol=1e-5)
        assert found["kind"] == kinds[int(expected.kind)], (values, parameter)


def farthest(found, expected):
    """The largest distance from an eigenvalue of either set to the nearest of the other."""
    apart = np.abs(np.subtract.outer(np.asarray(found), np.asarray(expected)))
    assert apart.shape[0] == apart.shape[1]
    return max(apart.min(0).max(), apart.min(1).max())
