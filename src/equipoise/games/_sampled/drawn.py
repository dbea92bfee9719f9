"""Play on batches that a key draws, and the twin run under the same batches."""

from typing import NamedTuple

import jax

from equipoise._check import type_error, value_error
from equipoise._jax.traced import Traced, traced
from equipoise._types import Array, PRNGKeyArray, PyTree, record, static_field
from equipoise.games._rules.dynamics import Dynamics, dynamics, traced_dynamics
from equipoise.games._rules.game import Game, Players
from equipoise.games._rules.rule import Memory, Rule, State, Steps, StepSize
from equipoise.games._sampled.sampled import batch_payoff, losses_of


class _Drawing(NamedTuple):
    """What a rule remembers, and the key of all batches to come."""

    memory: Memory
    key: PRNGKeyArray


class _Twins(NamedTuple):
    """What a rule remembers, and the state of the other run."""

    memory: Memory
    twin: State


@record
class _Source:
    """A sampled game as data: what its payoffs close over, its rows and the key are leaves."""

    payoffs: tuple[Traced, ...]
    data: PyTree[Array]
    key: PRNGKeyArray
    num_rows: int = static_field()
    size: int = static_field()
    replacement: bool = static_field()
    is_zero_sum: bool = static_field()

    def game(self, key: PRNGKeyArray) -> Game:
        """The game of the batch that this key draws."""
        drawn = jax.random.choice(key, self.num_rows, (self.size,), replace=self.replacement)
        rows = jax.tree.map(lambda leaf: leaf[drawn], self.data)
        return Game(losses_of(self.payoffs, rows, is_zero_sum=self.is_zero_sum), self.is_zero_sum)


def drawn_dynamics(
    game: Game, rule: Rule, players: Players, key: PRNGKeyArray | None, *, is_long: bool = False
) -> Dynamics:
    """Play of a sampled game on the batches that the key draws; on all of its data without one."""
    if key is None:
        return dynamics(game, rule, players, is_long=is_long)
    batches = game.batches
    if batches is None:
        raise value_error(
            "key",
            "must be None for a game that is not sampled, as nothing is drawn",
            "a key",
            "Make a sampled game: games.sampled(payoff, data, batch_size=...).",
        )
    if not jax.dtypes.issubdtype(getattr(key, "dtype", None), jax.dtypes.prng_key) or key.ndim:
        raise type_error("key", "must be one key", key, "Make it: jax.random.key(0).")
    example = jax.tree.map(lambda leaf: leaf[: batches.size], batches.data)
    payoffs = tuple(
        traced(batch_payoff(payoff), *players, example, kept=lambda number: is_long)
        for payoff in batches.payoffs
    )
    n, size, again = batches.num_rows, batches.size, batches.replacement
    source = _Source(payoffs, batches.data, key, n, size, again, game.is_zero_sum)

    def begin(source: _Source, players: Players, eta: Steps) -> State:
        # The batch of the first step, so that a rule that begins by its own gradient sees no other.
        _, now = jax.random.split(source.key)
        state = rule.init(source.game(now), players, eta)
        return State(state.players, _Drawing(state.memory, source.key))

    def step(source: _Source, state: State, eta: Steps) -> State:
        memory, key = state.memory
        later, now = jax.random.split(key)
        state = rule.step(source.game(now), State(state.players, memory), eta)
        return State(state.players, _Drawing(state.memory, later))

    return traced_dynamics(source, begin, step, players, is_long=is_long)


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
