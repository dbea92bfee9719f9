"""What compiles, and how often: a program a question, shared by all games that compute alike."""

import gc
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from equipoise import games
from equipoise.games._critical import critical
from equipoise.games._spectrum.spectrum import family_of
from tests.thinned import thinned

ETAS = np.linspace(0.1, 1.0, 5)
VECTOR = np.linspace(0.1, 1.0, 4)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def compilations():
    """A count of the programs compiled so far, in a list of one."""
    count = [0]

    def compiled(event, duration, **_):
        count[0] += event.endswith("backend_compile_duration")

    jax.monitoring.register_event_duration_secs_listener(compiled)
    yield count
    jax.monitoring.unregister_event_duration_listener(compiled)


def number(a):
    """A payoff that reads a Python number."""
    return games.zero_sum(lambda x, y: x**2 + a * x * y - y**2 / 3)


def array(a):
    """A payoff that reads an array."""
    weights = np.array([a, 1.0])
    return games.zero_sum(lambda x, y: weights @ weights * x * y - y**2)


def sampled(game):
    """The game with a pull and a curvature that differ between the rows."""
    payoff = game.losses[0]
    return games.sampled(
        lambda x, y, d: payoff(x, y) + d * (x + y + x**2 / 3), VECTOR - 0.55, batch_size=2
    )


def logistic(a):
    return lambda x: (3 + a) * x * (1 - x)


LOST = games.CriticalStep(
    *(np.asarray(x) for x in (0.9, 0.9, 0.9)),
    *(np.asarray(0, np.int32) for _ in range(2)),
    eigenvalue=np.asarray(1j),
    angle=np.asarray(np.pi / 2),
    kind=np.asarray(games.NEIMARK_SACKER, np.int32),
    resonance=np.asarray([1, 5], np.int32),
    simple=np.asarray(True),
    residual=np.asarray(0.0),
)
EXTRAGRADIENT, START = games.extragradient, (1.0, 0.5)
ORIGIN = (0.0, 0.0)
QUESTIONS = {
    "critical_step_size": lambda game: games.critical_step_size(
        game, EXTRAGRADIENT(), ORIGIN, max_step_size=3.0
    ),
    "critical_step_size with momentum": lambda game: games.critical_step_size(
        game, games.momentum(-0.2, order=(0, 1)), ORIGIN, max_step_size=3.0, step_ratios=(1.0, 2.0)
    ),
    "stable_step_sizes": lambda game: games.stable_step_sizes(
        game, EXTRAGRADIENT(), ORIGIN, max_step_size=3.0, num_evaluations=64
    ),
    "normal_form": lambda game: games.normal_form(game, EXTRAGRADIENT(), ORIGIN, LOST),
    "sweep": lambda game: games.sweep(
        game, games.alternating(), START, step_sizes=ETAS, num_steps=64
    ),
    "simulate": lambda game: games.simulate(
        game, games.from_optax(optax.sgd(1.0, momentum=0.5)), START, step_size=0.1, num_steps=8
    ),
    "stability": lambda game: games.stability(game, EXTRAGRADIENT(), ORIGIN, step_size=0.1),
    "spectral_radius": lambda game: games.spectral_radius(
        game, EXTRAGRADIENT(), ORIGIN, step_size=0.1
    ),
    "simulated_critical_step_size": lambda game: games.simulated_critical_step_size(
        game, EXTRAGRADIENT(), START, max_step_size=3.0, num_steps=64, num_rounds=2
    ),
    "find_equilibrium": lambda game: games.find_equilibrium(game, START),
    "simulate on batches": lambda game: games.simulate(
        sampled(game), EXTRAGRADIENT(), START, step_size=0.1, num_steps=8, key=KEY
    ),
    "sweep on batches": lambda game: games.sweep(
        sampled(game), EXTRAGRADIENT(), START, step_sizes=ETAS, num_steps=64, key=KEY
    ),
    "mean_square_critical_step_size": lambda game: games.mean_square_critical_step_size(
        sampled(game), EXTRAGRADIENT(), ORIGIN, max_step_size=3.0
    ),
    "noise_floor": lambda game: games.noise_floor(
        sampled(game), games.momentum(-0.2), ORIGIN, step_size=0.1
    ),
    "vector_field": lambda game: games.vector_field(game, START),
}
MAPS = {
    "lyapunov_exponents": lambda fn: games.lyapunov_exponents(fn, 0.3, num_steps=50),
    "period": lambda fn: games.period(fn, 0.3),
    "rotation_number": lambda fn: games.rotation_number(fn, 0.3, num_steps=50),
    "cycle": lambda fn: games.cycle(fn, 0.3),
    "basins": lambda fn: games.basins(
        lambda x: fn(x) / 2, [VECTOR], embed=lambda x: x, num_steps=60
    ),
    "orbit_diagram": lambda fn: games.orbit_diagram(lambda x, r: r * fn(x), 0.3, VECTOR),
    "dominant_eigenvalues": lambda fn: games.dominant_eigenvalues(
        lambda v: fn(0.3) * v, VECTOR, KEY, num=1
    ),
}


@pytest.mark.parametrize(("name", "make"), thinned(QUESTIONS, [number, array]))
def test_a_question_is_one_program_for_all_games_that_compute_alike(name, make, compilations):
    one_program_for_all(QUESTIONS[name], make, compilations)


@pytest.mark.parametrize("name", MAPS)
def test_a_map_is_one_program_for_all_that_compute_alike(name, compilations):
    one_program_for_all(MAPS[name], logistic, compilations)


def one_program_for_all(ask, make, compilations):
    jax.clear_caches()
    before = compilations[0]
    found = [ask(make(0.4))]
    # One for the question; one at most for an argument that has to reach the device.
    assert 1 <= compilations[0] - before <= 2
    before = compilations[0]
    found += [ask(make(a)) for a in (0.4, 0.7, 1.0)]
    assert compilations[0] == before
    first, again, other, _ = (np.hstack([np.ravel(x) for x in jax.tree.leaves(f)]) for f in found)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other, equal_nan=True)


def test_compare_is_one_program_a_rule_and_one_for_the_table(compilations):
    def ask(a, beta):
        rules = {"ahead": EXTRAGRADIENT(), "heavy": games.momentum(beta, order=(0, 1))}
        return games.compare(rules, number(a), ORIGIN, max_step_size=3.0)

    jax.clear_caches()
    before = compilations[0]
    ask(0.4, -0.2)
    assert compilations[0] - before <= 3
    before = compilations[0]
    ask(0.7, -0.3)
    assert compilations[0] == before


def test_update_map_steps_by_one_program(compilations):
    flat = np.zeros(2)
    games.update_map(number(0.4), EXTRAGRADIENT(), 0.1).step(flat)
    before = compilations[0]
    games.update_map(number(0.7), EXTRAGRADIENT(), 0.2).step(flat)
    assert compilations[0] == before


def test_what_a_cell_asks_a_hundred_times_leaves_nothing_behind(compilations):
    def cell(a):
        weights = jnp.full(100, a)
        game = games.zero_sum(lambda x, y: jnp.sum(weights) * x * y - y**2)
        rule = games.momentum(-0.1 * a)
        games.critical_step_size(game, rule, ORIGIN, max_step_size=3.0)
        games.sweep(game, rule, START, step_sizes=ETAS, num_steps=64)

    cell(0.5)
    gc.collect()
    programs, arrays = compilations[0], len(jax.live_arrays())
    for a in np.linspace(0.1, 1.0, 100).tolist():
        cell(a)
    gc.collect()
    assert compilations[0] == programs
    assert len(jax.live_arrays()) <= arrays


def marked(x):
    """A network whose layers are the only sines of a program."""
    return jnp.sum(jnp.sin(x @ x) * x)


def sines(text):
    return len(re.findall(r"\b(?:sine|cosine)\b", text))


def lowered(rule, num):
    """The text of a critical step as one program, and of what the host asks of the payoff."""
    game, at = games.general_sum(marked), (np.zeros(3),)
    family = family_of(game, rule, at)
    limit = np.asarray(2.0)
    whole = critical.search_compiled.lower(family, limit, num).as_text()
    asked = critical.measured.lower(family, np.zeros(critical.BATCH)).as_text()
    return whole, asked


@pytest.mark.parametrize(
    "rule", [games.simultaneous(), games.momentum(0.9)], ids=lambda rule: rule.name
)
def test_the_payoff_is_in_a_program_as_often_for_many_evaluations_as_for_few(rule):
    few, asked = lowered(rule, 32)
    many, _ = lowered(rule, 512)
    assert len(many) <= 1.01 * len(few)
    # The gradient has a cosine of its own, the matrix a sine and its derivative by η no more.
    once = sines(asked)
    assert 1 <= once <= 5
    # At 0, along the grid, along Newton's method, at the end.
    assert sines(many) == sines(few) <= 4 * once


def test_captured_data_are_arguments_of_the_program():
    data = np.linspace(0, 1, 1000)
    game = games.general_sum(lambda x: jnp.mean((data * x - 1) ** 2))
    family = family_of(game, games.simultaneous(), (np.ones(()),))
    text = critical.measured.lower(family, np.zeros(critical.BATCH)).as_text()
    main = next(line for line in text.splitlines() if "@main(" in line)
    assert "tensor<1000xf64>" in main
    assert "dense<" not in "".join(re.findall(r".*tensor<1000xf64>$", text, re.MULTILINE))


def test_an_optimizer_is_known_by_few_programs_also_inside_of_a_callers(compilations):
    players = (jnp.asarray(VECTOR),)

    def radius(weight):
        game = games.general_sum(lambda x: weight * jnp.sum(x**2))
        rule = games.from_optax(optax.sgd(1.0, momentum=0.5))
        return games.spectral_radius(game, rule, players, step_size=0.1)

    found, programs = [], []
    for call in (radius, jax.jit(radius)):
        jax.clear_caches()
        before = compilations[0]
        found.append(float(call(2.0)))
        programs.append(compilations[0] - before)
    np.testing.assert_allclose(*found, rtol=1e-6)
    # Three push the optimizer, one holds it where the gradient is, one has the spectrum.
    assert programs == [5, 4]
