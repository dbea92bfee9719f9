"""The noise floor against closed forms, all batches listed, and long runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import games
from tests.games.noise.batches_by_hand import BATCHES, DATA, RULES, H, descent, saddle, stationary
from tests.thinned import slow_but, thinned

MEAN_AT = (jnp.array(2.0),)


def mean_of(batch_size=1, rows=(1.0, 3.0)):
    return games.sampled(lambda x, d: (x - d) ** 2 / 2, jnp.array(rows), batch_size=batch_size)


@pytest.mark.parametrize(("name", "batches"), thinned(RULES, BATCHES))
def test_noise_floor_is_what_all_batches_leave_as_it_is(name, batches):
    game, at = saddle(*batches)
    floor = games.noise_floor(game, RULES[name], at, step_size=0.2)
    covariance, shift = stationary(saddle, name, *batches, 0.2)
    # Solves of condition 1/(1 − ρ), some tens.
    np.testing.assert_allclose(floor.covariance, covariance, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(floor.shift, shift, atol=1e-12)
    assert floor.verdict == games.CONVERGES
    second = covariance + np.outer(shift, shift)
    np.testing.assert_allclose(floor.distance, np.sqrt(np.trace(second)), rtol=1e-11)
    np.testing.assert_allclose(floor.excess_loss[0], -floor.excess_loss[1])


@pytest.mark.parametrize("name", slow_but(["simultaneous", "momentum"], "momentum"))
def test_noise_floor_is_what_long_runs_show(name):
    game, at = descent(2, False)
    floor = games.noise_floor(game, RULES[name], at, step_size=0.1)

    def excess(key):
        (path,) = games.simulate(game, RULES[name], at, step_size=0.1, num_steps=2500, key=key)
        return jnp.mean(jnp.einsum("ta,ab,tb->t", path, H.mean(0), path)[500:]) / 2

    played = jax.vmap(excess)(jax.random.split(jax.random.key(0), 200))
    # 4e5 steps that forget in some 30: a standard error of about 0.5 %, and the bound of the issue.
    assert jnp.std(played) / 200**0.5 < 0.005 * floor.excess_loss
    np.testing.assert_allclose(jnp.mean(played), floor.excess_loss, rtol=0.01)


@pytest.mark.parametrize("eta", slow_but([0.1, 0.5, 1.5], 0.5))
def test_noise_floor_of_a_mean_is_closed(eta):
    floor = games.noise_floor(mean_of(), games.simultaneous(), MEAN_AT, step_size=eta)
    np.testing.assert_allclose(floor.covariance, [[eta / (2 - eta)]], rtol=1e-14)
    np.testing.assert_allclose(floor.excess_loss, eta / (2 - eta) / 2, rtol=1e-14)


def test_noise_floor_of_all_rows_is_zero():
    floor = games.noise_floor(mean_of(2), games.simultaneous(), MEAN_AT, step_size=0.5)
    assert floor.excess_loss == 0
    assert floor.verdict == games.CONVERGES


def test_noise_floor_is_infinite_where_the_variance_grows():
    floor = games.noise_floor(mean_of(), games.simultaneous(), MEAN_AT, step_size=2.0)
    assert floor.verdict == games.DIVERGES
    for number in (floor.excess_loss, floor.distance, floor.covariance, floor.shift):
        assert np.all(number == np.inf)
    assert "grows without bound" in str(floor)


def test_noise_floor_is_undefined_where_a_row_is_no_number():
    bad = mean_of(1, (1.0, np.nan))
    floor = games.noise_floor(bad, games.simultaneous(), MEAN_AT, step_size=0.5)
    assert floor.verdict == games.UNDEFINED
    assert np.isnan(floor.excess_loss)


@pytest.mark.parametrize("pull", [0.0, 1.0])
def test_noise_floor_tells_that_play_wanders_where_batches_push_along_flat_directions(pull):
    rows = jnp.array([[1.0, pull], [-1.0, -pull]])
    game = games.sampled(lambda x, d: x[0] ** 2 / 2 + d @ x, rows, batch_size=1)
    floor = games.noise_floor(game, games.simultaneous(), (jnp.zeros(2),), step_size=0.5)
    assert floor.num_flat == 1
    assert floor.wanders == (pull > 0)
    assert ("walks at random" in str(floor)) == (pull > 0)
    np.testing.assert_allclose(floor.covariance, [[1 / 3, 0], [0, 0]], rtol=1e-14)


def test_noise_floor_differentiates():
    def excess(eta):
        return games.noise_floor(
            mean_of(), games.simultaneous(), MEAN_AT, step_size=eta
        ).excess_loss

    np.testing.assert_allclose(jax.grad(excess)(0.5), 1 / (2 - 0.5) ** 2, rtol=1e-13)


def test_noise_floor_rejects_a_game_that_is_not_sampled():
    with pytest.raises(TypeError, match="`game` must be a sampled game"):
        games.noise_floor(
            games.general_sum(lambda x: x**2), games.simultaneous(), (0.0,), step_size=0.1
        )
    game = games.sampled(lambda x, h: x @ h @ x / 2, DATA[0], batch_size=2)
    with pytest.raises(ValueError, match="equilibrium"):
        games.noise_floor(game, games.simultaneous(), (0.0, 0.0), step_size=0.1)
