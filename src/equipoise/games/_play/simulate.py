"""The trajectory of play."""

import functools

import jax
import jax.numpy as jnp

from equipoise._check import at, positive_integer
from equipoise._types import PRNGKeyArray
from equipoise.games._rules.dynamics import Dynamics, typed_steps
from equipoise.games._rules.game import Game, Players, checked_players
from equipoise.games._rules.rule import Rule, State, Steps, StepSize, check_rule
from equipoise.games._sampled.drawn import drawn_dynamics


@at("games.simulate")
def simulate(
    game: Game,
    rule: Rule,
    players: Players,
    *,
    step_size: StepSize,
    num_steps: int,
    key: PRNGKeyArray | None = None,
) -> Players:
    r"""The trajectory of play, the start included.

    .. math::

        s_0 = \mathrm{init}(z_0), \qquad s_{t+1} = \Phi_\eta(s_t), \qquad t = 0, \dots, T - 1

    Args:
        game: The game.
        rule: Φ, the update rule.
        players: z₀, a tuple of one pytree of real arrays per player.
        step_size: η, one number or one per player.
        num_steps: T, the number of steps, ≥ 0 and static.
        key: Draws the batches of a sampled game, one per step. Without one every game is
            deterministic, and a sampled game is played on all of its data.

    Returns:
        z₀ … z_T with the structure of ``players``; every leaf has a new leading axis of length
        T + 1. A trajectory that overflows holds infinities and then NaNs from there on.

    Raises:
        TypeError: If a player is not real and floating-point, ``num_steps`` is no Python integer,
            or ``key`` is not one key.
        ValueError: If the players do not fit the game or the rule, a step size is negative or NaN,
            or there is a key and the game is not sampled.

    Cost: T steps of the rule; memory of T + 1 positions.

    Examples:
        >>> game = games.general_sum(lambda x: 0.5 * jnp.sum(x**2))
        >>> (x,) = games.simulate(
        ...     game, games.simultaneous(), (jnp.ones(2),), step_size=0.5, num_steps=3)
        >>> print(x[:, 0])
        [1.    0.5   0.25  0.125]

    References:
        :cite:t:`arrow1958`
    """
    check_rule(rule)
    num_steps = positive_integer("num_steps", num_steps, minimum=0)
    players = checked_players(game, players)
    eta = typed_steps(step_size, players)
    return _path(drawn_dynamics(game, rule, players, key), players, eta, num_steps)


@functools.partial(jax.jit, static_argnums=3)
def _path(dynamics: Dynamics, players: Players, eta: Steps, num_steps: int) -> Players:
    def step(state: State, _: None) -> tuple[State, Players]:
        state = dynamics.step(state, eta)
        return state, state.players

    start = dynamics.begin(players, eta)
    _, path = jax.lax.scan(step, start, None, length=num_steps)
    return jax.tree.map(lambda x, xs: jnp.concatenate([x[None], xs]), start.players, path)
