"""One step of play as a map of the full state."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from equipoise import games

START = (jnp.asarray(1.0), jnp.asarray(0.5))
BILINEAR = games.zero_sum(lambda x, y: x * y)


def test_update_map_prints_without_addresses():
    assert repr(games.update_map(BILINEAR, games.simultaneous(), 0.3)).count("0x") == 0


def test_update_map_equals_a_step_on_the_full_state():
    rule = games.momentum(0.5)
    step, ravel, unravel = games.update_map(BILINEAR, rule, 0.3)
    state = rule.step(BILINEAR, rule.init(BILINEAR, START, 0.3), 0.3)
    chex.assert_trees_all_close(
        unravel(step(ravel(state))), rule.step(BILINEAR, state, 0.3), rtol=1e-15
    )
    assert ravel(state).shape == (4,)


def test_update_map_holds_step_counts_at_their_limit():
    with jax.numpy_dtype_promotion("standard"):
        rule = games.from_optax(optax.adam(1.0, b1=0.5, b2=0.75))
        step, _, _ = games.update_map(games.general_sum(lambda x: 3.0 * x), rule, 1.0)
        x, m, v = step(jnp.array([0.0, 2.0, 8.0]))
    # Without bias correction: m = (2 + 3)/2, v = 8·3/4 + 9/4.
    np.testing.assert_allclose([m, v, x], [2.5, 8.25, -2.5 / (np.sqrt(8.25) + 1e-8)], rtol=1e-12)
