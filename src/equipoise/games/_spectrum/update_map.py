"""A rule as a plain map of its full state, laid out flat, and its fixed point at an equilibrium."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from equipoise._check import at
from equipoise._types import Array
from equipoise.games._rules.dynamics import Dynamics, dynamics, typed_steps
from equipoise.games._rules.game import Game, Players, checked_players
from equipoise.games._rules.rule import Rule, State, Steps, StepSize, check_rule

# Step counters stand here: bias corrections and schedules at their limits, far from overflow.
_COUNT = 2**30


class UpdateMap(NamedTuple):
    """One step of play on flat vectors, and the way there and back.

    Attributes:
        step: From the full state as a vector to the next.
        ravel: From a ``State`` to its vector.
        unravel: From a vector to the ``State``, with the flags and step counts of the example.
    """

    step: Callable[[Array], Array]
    ravel: Callable[[State], Array]
    unravel: Callable[[Array], State]

    def __repr__(self) -> str:
        """Without the addresses of its functions."""
        return "UpdateMap(step, ravel, unravel)"


@at("games.update_map")
def update_map(
    game: Game, rule: Rule, step_size: StepSize, players: Players | None = None
) -> UpdateMap:
    r"""One step of play as a plain map on the flat full state.

    .. math::

        s \mapsto \Phi_\eta(s), \qquad s = (z, \text{memory}) \in \mathbb{R}^N

    The memory (momentum, past gradients, moments of an optimizer) is part of s. Leaves that are
    no real numbers are not: step counts stand at 2³⁰, so that bias corrections and schedules are
    at their limits, and other flags stand as they are after the first step.

    Args:
        game: The game.
        rule: Φ, the update rule.
        step_size: η, one number or one per player.
        players: An example that gives the players' structure and shapes; its values do not matter
            unless the rule's flags depend on them. Default: one scalar per player.

    Returns:
        The ``UpdateMap(step, ravel, unravel)``: ``step`` maps a vector of length N to the next,
        ``ravel`` a ``State`` to its vector and ``unravel`` back. The players' coordinates come
        first, in the order of ``ravel_pytree``.

    Raises:
        TypeError: If a player is not real and floating-point.
        ValueError: If the players do not fit the game or the rule.

    Cost: one step of the rule for each call of the map.

    Examples:
        >>> game = games.zero_sum(lambda p, q: p * q)
        >>> step, ravel, unravel = games.update_map(game, games.simultaneous(), 0.5)
        >>> print(jax.jacobian(step)(jnp.zeros(2)))
        [[ 1. -0.5]
         [ 0.5  1. ]]

    References:
        :cite:t:`mescheder2017`
    """
    check_rule(rule)
    if players is None and isinstance(game, Game):
        players = tuple(0.0 for _ in game.losses)
    players = checked_players(game, players)
    eta, known = typed_steps(step_size, players), dynamics(game, rule, players)
    example = _settled(known, players, eta)
    return UpdateMap(
        lambda flat: _flat_step(known, eta, example, flat),
        lambda state: _ravel(example, state),
        lambda flat: _unravel(example, flat),
    )


def settled(dynamics: Dynamics, players: Players, eta: Steps) -> State:
    """The initial state, with flags as after one step and step counts at their limit."""
    start = dynamics.begin(dynamics.inside(players), eta)
    if all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(start)):
        return start
    later = dynamics.step(start, eta)

    def leaf(first: Array, second: Array) -> Array:
        if jnp.issubdtype(first.dtype, jnp.floating):
            return first
        return jnp.full_like(second, _COUNT) if first.dtype in (jnp.int32, jnp.int64) else second

    return jax.tree.map(leaf, start, later)


def layout(example: State) -> tuple[Callable[[State], Array], Callable[[Array], State]]:
    """From a state like the example to its vector, and back with the example's flags and counts."""
    leaves, structure = jax.tree.flatten(example)
    real = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]
    dtype = jnp.result_type(*(leaf.dtype for leaf, r in zip(leaves, real, strict=True) if r))

    def ravel(state: State) -> Array:
        parts = zip(jax.tree.leaves(state), real, strict=True)
        return jnp.concatenate([leaf.ravel().astype(dtype) for leaf, r in parts if r])

    def unravel(flat: Array) -> State:
        rebuilt, start = [], 0
        for leaf, r in zip(leaves, real, strict=True):
            if r:
                part = flat[start : start + leaf.size]
                rebuilt.append(part.reshape(leaf.shape).astype(leaf.dtype))
                start += leaf.size
            else:
                rebuilt.append(leaf)
        return jax.tree.unflatten(structure, rebuilt)

    return ravel, unravel


def flat_step(dynamics: Dynamics, eta: Steps, example: State, flat: Array) -> Array:
    """One step from a vector to the next."""
    ravel, unravel = layout(example)
    return ravel(dynamics.step(unravel(flat), eta))


_settled, _flat_step = jax.jit(settled), jax.jit(flat_step)
_ravel = jax.jit(lambda example, state: layout(example)[0](state))
_unravel = jax.jit(lambda example, flat: layout(example)[1](flat))
