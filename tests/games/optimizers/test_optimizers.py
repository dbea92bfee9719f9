"""What is found in an optimizer by pushing it, where it is held, and the rule that it makes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from equipoise import games
from equipoise.games._optimizers.anatomy import anatomy
from equipoise.games._optimizers.held import hold
from equipoise.games._optimizers.leaves import joined, split
from equipoise.games._optimizers.optimizer import traced_optimizer
from equipoise.games._optimizers.pushes import Static, answers_to_pushes

HERE = np.array([1.0, -2.0, 0.5])
GRADIENT = np.array([0.1, 0.3, -0.2])


@pytest.fixture(autouse=True)
def _promotion_that_optax_needs():
    with jax.numpy_dtype_promotion("standard"):
        yield


def known(optimizer, frozen=None):
    """The optimizer as data, its shapes and its anatomy."""
    data, shapes = traced_optimizer("optimizer", optimizer, HERE)
    return data, shapes, anatomy("optimizer", data, shapes, frozen)


def answering(now, past=0.0, mixed=0.0):
    """The update −(now·g + past·g_before + mixed·mean g)."""
    return optax.GradientTransformation(
        lambda x: jnp.zeros_like(x),
        lambda g, m, x=None: (-(now * g + past * m + mixed * jnp.mean(g)), g),
    )


# What moves, the period, what gradients feed, whether it is diagonal, common and late.
ANATOMIES = {
    "descent": (optax.sgd(1.0), ((), 1, (), True, True, False)),
    "adam": (
        optax.adam(1.0),
        ((False, True, False), 1, (False, False, True), True, True, False),
    ),
    "in turns": (
        optax.MultiSteps(optax.sgd(1.0), 2).gradient_transformation(),
        ((False, False, True), 2, (False, False, False), False, False, True),
    ),
    "mixing": (answering(1.0, mixed=0.5), ((True,), 1, (False,), False, False, False)),
    "late": (answering(0.1, past=1.0), ((True,), 1, (False,), False, False, True)),
}


@pytest.mark.parametrize("name", ANATOMIES)
def test_anatomy_says_what_moves_and_how_it_answers(name):
    optimizer, expected = ANATOMIES[name]
    assert tuple(known(optimizer)[2]) == expected


def test_anatomy_tells_two_groups_from_one_recurrence():
    groups = optax.multi_transform(
        {"heavy": optax.trace(0.9), "plain": optax.trace(0.5)}, {"a": "heavy", "b": "plain"}
    )
    params = {"a": HERE, "b": HERE}
    data, shapes = traced_optimizer("o", optax.chain(groups, optax.scale(-1.0)), params)
    found = anatomy("o", data, shapes)
    assert found.is_diagonal
    assert not found.is_common


def test_answers_to_pushes_show_that_the_derivative_of_a_sign_is_no_guide():
    data, shapes = traced_optimizer("o", optax.sign_sgd(1.0), HERE)
    said = answers_to_pushes(data, Static(shapes), (), 1)
    np.testing.assert_array_equal(said.by_signs, 0)
    np.testing.assert_allclose(said.up[0] - said.down[0], -2 * said.signs)


def test_answers_to_pushes_are_the_pulse_of_momentum():
    data, shapes = traced_optimizer("o", optax.sgd(1.0, momentum=0.5), HERE)
    said = answers_to_pushes(data, Static(shapes), (True,), 1)
    expected = np.repeat(-(0.5 ** np.arange(4.0))[:, None], 3, axis=1)
    np.testing.assert_allclose(said.by_ones, expected)
    np.testing.assert_allclose(said.by_signs, expected * np.asarray(said.signs))
    np.testing.assert_array_equal(said.shifted, 0)


def test_leaves_of_a_state_come_apart_and_together():
    state = optax.adam(1.0).init(HERE)
    moves = (False, True, False)
    moving, others = split(state, moves)
    assert [leaf.shape for leaf in moving] == [(3,)]
    again = joined(moving, others, moves, state)
    jax.tree.map(np.testing.assert_array_equal, again, state)


@pytest.mark.parametrize("given", [True, False])
def test_hold_keeps_the_second_moment_where_it_is(given):
    data, _, parts = known(optax.adam(1.0))
    nu = np.array([4.0, 0.25, 1e-6]) if given else GRADIENT**2
    state = None
    if given:
        adam, *rest = optax.adam(1.0).init(HERE)
        state = (adam._replace(nu=jnp.asarray(nu)), *rest)

    def asked(state):
        held = hold(data, parts, HERE, GRADIENT, state)
        update = lambda g: held.update(g, held.still(), held.counts(), HERE)[0]  # noqa: E731
        slope = jax.jvp(update, (np.zeros(3),), (np.ones(3),))[1]
        return slope, data.update(np.zeros(3), held.state, HERE)[1][0].nu

    slope, after = jax.jit(asked)(state)
    # Updates in proportion, of a second moment that an update by no gradient leads to.
    np.testing.assert_allclose(after, nu, rtol=1e-10)
    np.testing.assert_allclose(slope, -0.1 / (np.sqrt(nu) + 1e-8), rtol=1e-7)


QUADRATIC = games.general_sum(lambda x: jnp.sum(x**2))  # of curvature 2


def test_from_optax_begins_play_at_the_state_that_is_given():
    optimizer = optax.sgd(1.0, momentum=0.5)
    trace, *rest = optimizer.init(HERE)
    rule = games.from_optax(optimizer, state=(trace._replace(trace=GRADIENT), *rest))
    (x,) = games.simulate(QUADRATIC, rule, (HERE,), step_size=0.1, num_steps=1)
    np.testing.assert_allclose(x[1], HERE - 0.1 * (2 * HERE + 0.5 * GRADIENT))


@pytest.mark.parametrize(("frozen", "threshold"), [(None, 3.0), (True, 2.0)])
def test_from_optax_holds_what_is_frozen(frozen, threshold):
    rule = games.from_optax(optax.sgd(1.0, momentum=0.5), frozen=frozen)
    lost = games.critical_step_size(QUADRATIC, rule, (np.zeros(2),), max_step_size=9.0)
    np.testing.assert_allclose(lost.step_size, threshold / 2, rtol=1e-10)


def test_from_optax_rejects_a_state_for_another_number_of_players():
    game = games.zero_sum(lambda x, y: x * y)
    optimizer = optax.sgd(1.0, momentum=0.5)
    rule = games.from_optax(optimizer, state=(optimizer.init(1.0),))
    with pytest.raises(ValueError, match="`state` must have one entry for each of the 2 players"):
        games.simulate(game, rule, (1.0, 1.0), step_size=0.1, num_steps=1)
