"""Games of minibatches: the mean game, the batches that a key draws, and sweeps under noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import games

ROWS = jnp.array([1.0, 2.0, 6.0])
KEY = jax.random.key(0)


def square(x, d):
    return (x - d) ** 2 / 2


def test_sampled_is_its_full_data_mean_game_without_a_key():
    game = games.sampled(lambda x, y, d: d * x * y + x**2, ROWS, batch_size=2)
    mean = games.zero_sum(lambda x, y: 3 * x * y + x**2)
    at, rule = (0.3, -0.2), games.extragradient()
    for ask in (
        lambda game: games.vector_field(game, at),
        lambda game: games.simulate(game, rule, at, step_size=0.1, num_steps=9),
        lambda game: games.critical_step_size(game, rule, (0.0, 0.0), max_step_size=9.0).step_size,
    ):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), ask(game), ask(mean)
        )
    assert str(game) == "Zero-sum game, players: 2, batches of 2 of 3 rows"


def test_sampled_takes_a_tuple_of_losses():
    game = games.sampled(
        (lambda x, y, d: d["a"] * x * y, lambda x, y, d: y**2), {"a": ROWS}, batch_size=1
    )
    np.testing.assert_allclose(games.vector_field(game, (1.0, 2.0)), (6.0, 4.0))


@pytest.mark.parametrize(
    ("replacement", "means"), [(False, [1.5, 3.5, 4.0]), (True, [1, 1.5, 2, 3.5, 4, 6])]
)
def test_sampled_batches_are_uniform_and_independent(replacement, means):
    game = games.sampled(square, ROWS, batch_size=2, replacement=replacement)
    (x,) = games.simulate(
        game, games.simultaneous(), (0.0,), step_size=1.0, num_steps=20_000, key=KEY
    )
    drawn, counts = np.unique(np.round(x[1:], 9), return_counts=True)
    np.testing.assert_array_equal(drawn, means)
    # Pairs of different rows come twice as often as a row with itself; 5 standard deviations.
    shares = np.array([1, 2, 1, 2, 2, 1]) / 9 if replacement else np.full(3, 1 / 3)
    np.testing.assert_allclose(counts / 20_000, shares, atol=5 * 0.5 / 20_000**0.5)
    centered = np.asarray(x[1:]) - 3
    assert abs(np.mean(centered[1:] * centered[:-1])) < 5 * np.var(centered) / 20_000**0.5


def test_sampled_step_sees_one_batch_in_all_its_gradients():
    # Extragradient by −η d (z − η d z): with one row in both half-steps the factor is 1 − d + d².
    game = games.sampled(lambda x, d: d * x**2 / 2, ROWS / 10, batch_size=1)
    (x,) = games.simulate(game, games.extragradient(), (1.0,), step_size=1.0, num_steps=50, key=KEY)
    factors = np.unique(np.round(x[1:] / x[:-1], 9))
    np.testing.assert_allclose(factors, np.sort(1 - ROWS / 10 + (ROWS / 10) ** 2), atol=1e-8)


@pytest.mark.parametrize("equilibrium", [None, (0.0,)])
def test_sweep_under_noise_is_that_of_play_without_its_noise(equilibrium):
    # Equal curvatures: twins forget at exactly (1 − η), however far the pulls throw them.
    rows = jnp.array([5.0, -5.0])
    game = games.sampled(lambda x, d: x**2 / 2 + d * x, rows, batch_size=1)
    etas = jnp.array([0.1, 1.0, 1.9, 2.1])
    found = games.sweep(
        game, games.simultaneous(), (1.0,), step_sizes=etas, num_steps=400, key=KEY,
        equilibrium=equilibrium,
    )  # fmt: skip
    assert found.verdict.tolist() == [games.CONVERGES] * 3 + [games.DIVERGES]
    np.testing.assert_allclose(found.rate[jnp.array([0, 2, 3])], [0.9, 0.9, 1.1], rtol=1e-6)
    assert "a second run under the same batches" in str(found)


def test_simulate_and_sweep_reject_keys_without_batches():
    plain = games.general_sum(lambda x: x**2)
    game = games.sampled(square, ROWS, batch_size=1)
    options = {"step_size": 0.1, "num_steps": 20}
    with pytest.raises(ValueError, match="`key` must be None for a game that is not sampled"):
        games.simulate(plain, games.simultaneous(), (1.0,), key=KEY, **options)
    with pytest.raises(TypeError, match="`key` must be one key"):
        games.simulate(game, games.simultaneous(), (1.0,), key=jax.random.split(KEY), **options)
    etas = jnp.array([0.1])
    with pytest.raises(ValueError, match=r"games\.sweep: `key` must be None"):
        games.sweep(plain, games.simultaneous(), (1.0,), step_sizes=etas, num_steps=20, key=KEY)


def test_sampled_rejects_what_is_no_game():
    with pytest.raises(ValueError, match="`batch_size` must be at most the 3 rows"):
        games.sampled(square, ROWS, batch_size=4)
    with pytest.raises(TypeError, match="`batch_size` must be a Python integer"):
        games.sampled(square, ROWS, batch_size=2.0)
    with pytest.raises(ValueError, match="`batch_size` must be at least 1"):
        games.sampled(square, ROWS, batch_size=0)
    with pytest.raises(ValueError, match=r"`data\['b'\]` must have 3 rows"):
        games.sampled(square, {"a": ROWS, "b": ROWS[:2]}, batch_size=1)
    with pytest.raises(ValueError, match="`data` must have rows in front"):
        games.sampled(square, jnp.ones(()), batch_size=1)
    with pytest.raises(ValueError, match="`data` must have at least one array leaf"):
        games.sampled(square, (), batch_size=1)
    with pytest.raises(ValueError, match="`payoff` must take one or two players and a datum"):
        games.sampled(lambda x, y, z, d: x, ROWS, batch_size=1)
    with pytest.raises(TypeError, match="`payoff` must be a function"):
        games.sampled(3.0, ROWS, batch_size=1)
    assert games.sampled(square, ROWS, batch_size=9, replacement=True).batches.size == 9
