"""A game under a rule as data, so that compiled functions take it as an argument."""

from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from equipoise._check import is_traced, value_error
from equipoise._jax.traced import Traced, traced
from equipoise._types import Array, PyTree, Scalar, record
from equipoise.games._rules.game import Game, Players, traced_game
from equipoise.games._rules.numerics import rounding
from equipoise.games._rules.rule import (
    Ratios,
    Rule,
    State,
    Steps,
    StepSize,
    checked_step_size,
    step_sizes,
)

Factors: TypeAlias = tuple[Scalar | None, ...]


@record
class Dynamics:
    """How play begins and goes on; what the payoffs and the rule close over are its leaves.

    Two games or rules that compute alike share what is compiled for one of them.
    """

    game: PyTree
    first: Traced
    following: Traced
    project: Traced | None

    def begin(self, players: Players, eta: Steps) -> State:
        """The state before the first step, with one step size per player."""
        return self.first(self.game, players, eta)

    def step(self, state: State, eta: Steps) -> State:
        """The next state."""
        return self.following(self.game, state, eta)

    def inside(self, players: Players) -> Players:
        """The players, off every edge of a projection that they are on.

        An edge has two derivatives, and a push along it is judged by the one of the inner side.
        """
        if self.project is None:
            return players
        flat, unravel = ravel_pytree(players)
        # √ε apart, and at distances of no ratio, so that edges are met one by one.
        push = rounding(flat.dtype, 0.5) * (1 + jnp.abs(flat))
        push = push * (1 + jnp.arange(flat.size, dtype=flat.dtype) * 0.618034 % 1)
        there, back = (ravel_pytree(self.project(unravel(flat + p)))[0] for p in (push, -push))
        inward = there + back - 2 * flat  # 0 where the projection is linear, ε where it bends
        return unravel(flat + jnp.where(jnp.abs(inward) > 0.1 * push, inward, 0))


def dynamics(game: Game, rule: Rule, players: Players, *, is_long: bool = False) -> Dynamics:
    """The game under the rule, for players of these shapes; step sizes have their dtype.

    Numbers that the compiler knows make a step up to five times as fast, which pays in long runs.
    """
    known = traced_game(game, players, is_long=is_long)
    return traced_dynamics(known, rule, players, is_long=is_long)


def traced_dynamics(
    game: PyTree, rule: Rule, players: Players, *, is_long: bool = False
) -> Dynamics:
    """The rule in a game of any form of which ``game.again()`` makes a ``Game``."""

    def begin(game: PyTree, players: Players, eta: Steps) -> State:
        return rule.init(game.again(), players, eta)

    def step(game: PyTree, state: State, eta: Steps) -> State:
        return rule.step(game.again(), state, eta)

    def kept(number: float) -> bool:
        return is_long or number in (-1, 0, 1)  # derivation writes these, compilers drop them

    eta = tuple(np.ones((), common_dtype(players)) for _ in players)
    first = traced(begin, game, players, eta, kept=kept)
    state = jax.eval_shape(first, game, players, eta)
    project = None if rule.project is None else traced(rule.project, players)
    return Dynamics(game, first, traced(step, game, state, eta, kept=kept), project)


def held_dynamics(game: Game, rule: Rule, players: Players) -> Dynamics:
    """The dynamics whose step is linearized at the players: slow memory stays where it is."""
    return dynamics(game, held_rule(game, rule, players), players)


def held_rule(game: Game, rule: Rule, players: Players) -> Rule:
    """The rule with its slow memory held where it is at the players."""
    return rule if rule.held is None else rule.held(game, players)


def common_dtype(players: Players) -> np.dtype:
    """The dtype that holds all coordinates."""
    return jnp.result_type(*(leaf.dtype for leaf in jax.tree.leaves(players)))


def typed(number: Scalar, dtype: np.dtype) -> Scalar:
    """A number in a dtype; one that is known is left to NumPy, which compiles nothing."""
    known: PyTree = number if is_traced(number) else np.asarray(number)
    return known.astype(dtype)


def typed_steps(step_size: StepSize, players: Players) -> Steps:
    """One step size a player, in the dtype of the players."""
    dtype = common_dtype(players)
    return tuple(typed(size, dtype) for size in step_sizes(step_size, len(players)))


def checked_ratios(ratios: Ratios | None, players: Players) -> Factors:
    """What each player's step is of the common one; None is all of it."""
    if ratios is None:
        return (None,) * len(players)
    if not isinstance(ratios, tuple | list) and getattr(ratios, "ndim", 0) != 1:
        raise value_error("step_ratios", "must have one number per player", ratios)
    if len(ratios) != len(players):
        raise value_error(
            "step_ratios",
            f"must have one entry for each of the {len(players)} players",
            f"{len(ratios)} entries",
        )
    dtype = common_dtype(players)
    return tuple(typed(checked_step_size("step_ratios", r), dtype) for r in ratios)


def each_player(eta: Array, factors: Factors) -> Steps:
    """From a common step size to one per player, each its own multiple."""
    return tuple(eta if factor is None else eta * factor for factor in factors)
