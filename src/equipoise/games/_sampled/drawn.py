"""Play on batches that a key draws, and the twin run under the same batches."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._check import type_error, value_error
from equipoise._jax.traced import Traced, traced
from equipoise._types import Array, PRNGKeyArray, PyTree, record, static_field
from equipoise.games._rules.dynamics import Dynamics, dynamics, traced_dynamics
from equipoise.games._rules.game import Batches, Game, Players
from equipoise.games._rules.rule import Memory, Rule, State, StepSize
from equipoise.games._sampled.sampled import batches_of, on_a_batch, on_all_data


@record
class Rows:
    """A sampled game as data: what its payoffs close over and its rows are leaves.

    Attributes:
        payoffs: Of the players and one row.
        data: The rows.
        plan: How many rows a batch has, and whether with replacement.
        is_zero_sum: Whether the one payoff is that of a zero-sum game.
    """

    payoffs: tuple[Traced, ...]
    data: PyTree[Array]
    plan: tuple[int, bool] = static_field()
    is_zero_sum: bool = static_field()

    def again(self) -> Game:
        """The sampled game."""
        return on_all_data(
            Batches(self.payoffs, self.data, *self.plan), is_zero_sum=self.is_zero_sum
        )


def rows_of(game: Game, players: Players, *, is_long: bool = False) -> Rows:
    """The rows of a sampled game, for players of these shapes."""
    batches = batches_of(game)
    structure: Callable[..., PyTree] = jax.ShapeDtypeStruct  # it is left untyped
    datum = jax.tree.map(lambda leaf: structure(leaf.shape[1:], leaf.dtype), batches.data)
    payoffs = tuple(
        traced(payoff, *players, datum, kept=lambda number: is_long) for payoff in batches.payoffs
    )
    return Rows(payoffs, batches.data, (batches.size, batches.replacement), game.is_zero_sum)


class _Drawing(NamedTuple):
    """What a rule remembers, and the key of all batches to come."""

    memory: Memory
    key: PRNGKeyArray


class _Twins(NamedTuple):
    """What a rule remembers, and the state of the other run."""

    memory: Memory
    twin: State


def drawn_dynamics(
    game: Game, rule: Rule, players: Players, key: PRNGKeyArray | None, *, is_long: bool = False
) -> Dynamics:
    """Play of a sampled game on the batches that the key draws; on all of its data without one."""
    if key is None:
        return dynamics(game, rule, players, is_long=is_long)
    if game.batches is None:
        raise value_error(
            "key",
            "must be None for a game that is not sampled, as nothing is drawn",
            "a key",
            "Make a sampled game: games.sampled(payoff, data, batch_size=...).",
        )
    if not jnp.issubdtype(getattr(key, "dtype", np.dtype(bool)), jax.dtypes.prng_key) or key.ndim:
        raise type_error("key", "must be one key", key, "Make it: jax.random.key(0).")
    rows = rows_of(game, players, is_long=is_long)
    return traced_dynamics(rows, _drawing(rule, key), players, is_long=is_long)


def _drawing(rule: Rule, key: PRNGKeyArray) -> Rule:
    """The rule in a sampled game, each step on a batch."""

    def init(game: Game, players: Players, step_size: StepSize) -> State:
        # The batch of the first step, so that a rule that begins by its own gradient sees no other.
        _, now = jax.random.split(key)
        state = rule.init(on_a_batch(game, now), players, step_size)
        return State(state.players, _Drawing(state.memory, key))

    def step(game: Game, state: State, step_size: StepSize) -> State:
        memory, key = state.memory
        later, now = jax.random.split(key)
        state = rule.step(on_a_batch(game, now), State(state.players, memory), step_size)
        return State(state.players, _Drawing(state.memory, later))

    return Rule(rule.name, init, step)


def twins(rule: Rule, origin: Players | None) -> Rule:
    """The rule, beside a second run that sees the same games.

    That begins at the origin, or else one step ahead of the first. In a game without chance the
    distance between the two is that from the origin, or the length of a step.
    """

    def init(game: Game, players: Players, step_size: StepSize) -> State:
        state = rule.init(game, players, step_size)
        if origin is None:
            twin = rule.step(game, state, step_size)
        else:
            twin = rule.init(game, origin, step_size)
        return State(state.players, _Twins(state.memory, twin))

    def step(game: Game, state: State, step_size: StepSize) -> State:
        memory, twin = state.memory
        own = rule.step(game, State(state.players, memory), step_size)
        return State(own.players, _Twins(own.memory, rule.step(game, twin, step_size)))

    return Rule(rule.name, init, step)


def twin_players(state: State) -> Players:
    """Where the second run is, in a state of ``drawn_dynamics`` of a rule with ``twins``."""
    drawing: _Drawing = state.memory
    beside: _Twins = drawing.memory
    return beside.twin.players
