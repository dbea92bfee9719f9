"""What an update rule is, and the parts that rules are made of."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._check import at, is_traced, type_error, value_error
from equipoise._types import Array, PyTree, Scalar, record, static_field
from equipoise.games._rules.game import Game, Players, checked_players

StepSize: TypeAlias = float | Array | Sequence[float | Array]
Steps: TypeAlias = tuple[Scalar, ...]
Ratios: TypeAlias = Sequence[float | Array] | Array
_Projection: TypeAlias = Callable[[PyTree[Array]], PyTree[Array]]
Projections: TypeAlias = Sequence[_Projection | None] | None
Memory: TypeAlias = PyTree  # momentum, past gradients, optimizer states, or an empty tuple


@record
class State:
    """Where the players are, and what their update rule remembers.

    Attributes:
        players: The positions, a tuple of one pytree per player.
        memory: What else the next step depends on: momentum, past gradients, optimizer states. An
            empty tuple for a rule without memory.
    """

    players: Players
    memory: Memory


@record
class Rule:
    """An update rule: a pure function from one state of play to the next.

    Write your own with the first three fields; everything in this area then works with it.

    Attributes:
        name: What it is called in tables and figures.
        init: ``init(game, players, step_size)`` gives the ``State`` before the first step.
        step: ``step(game, state, step_size)`` gives the next ``State``. Everything in this area
            passes the step size as a tuple, one number per player.
        project: ``project(players)`` gives the nearest players that the rule allows. Default: all
            are allowed.
        held: ``held(game, players)`` gives the rule whose step is linearized at these players, one
            whose memory all moves with them. Default: the rule itself.
    """

    name: str = static_field()
    init: Callable[[Game, Players, StepSize], State] = static_field()
    step: Callable[[Game, State, StepSize], State] = static_field()
    project: Callable[[Players], Players] | None = static_field(default=None)
    held: Callable[[Game, Players], "Rule"] | None = static_field(default=None)

    def __str__(self) -> str:
        """The name."""
        return f"Rule {self.name}"

    __repr__ = __str__


def make_rule(
    name: str,
    advance: Callable[[Game, Players, Memory, Steps], tuple[Players, Memory]],
    remember: Callable[[Game, Players, Steps], Memory] = lambda game, players, eta: (),
    *,
    num_players: int | None = None,
    held: Callable[[Game, Players], Rule] | None = None,
    project: Callable[[Players], Players] | None = None,
) -> Rule:
    """A rule from ``advance(game, players, memory, eta) -> players, memory``, eta of each."""

    @at(f"games.{name}")
    def init(game: Game, players: Players, step_size: StepSize) -> State:
        players = checked_players(game, players)
        if num_players not in (None, len(players)):
            raise value_error("game", f"must have {num_players} players", f"{len(players)} players")
        return State(players, remember(game, players, step_sizes(step_size, len(players))))

    @at(f"games.{name}")
    def step(game: Game, state: State, step_size: StepSize) -> State:
        eta = step_sizes(step_size, len(state.players))
        return State(*advance(game, state.players, state.memory, eta))

    return Rule(name, init, step, project or None, held)


def check_rule(rule: object) -> None:
    """Reject what is not an update rule; the commonest mistake is to forget the call."""
    if not isinstance(rule, Rule):
        raise type_error(
            "rule", "must be a Rule", rule, "Call its constructor: games.simultaneous()."
        )


def step_sizes(step_size: StepSize, num_players: int) -> Steps:
    """One step size a player, from one for all or one for each."""
    if isinstance(step_size, tuple | list):
        sizes = tuple(step_size)
    elif isinstance(step_size, Array | np.ndarray) and step_size.ndim == 1:
        sizes = tuple(step_size[i] for i in range(step_size.size))
    else:
        sizes = (step_size,) * num_players
    if len(sizes) != num_players:
        raise value_error(
            "step_size",
            f"must be one number or one for each of the {num_players} players",
            f"{len(sizes)} numbers",
        )
    return tuple(checked_step_size("step_size", size) for size in sizes)


def checked_step_size(argument: str, size: float | Array) -> Scalar:
    """A real scalar; where it is known, it is neither negative nor NaN."""
    array: PyTree = size if hasattr(size, "dtype") else np.asarray(size)
    if array.ndim != 0:
        raise value_error(argument, "must be a number", array)
    if jnp.issubdtype(array.dtype, jnp.complexfloating) or array.dtype == jnp.bool_:
        raise type_error(argument, "must be real", array)
    check_not_negative(argument, array)
    return array


def check_not_negative(argument: str, value: Array) -> None:
    """Reject negative and NaN entries of a concrete array; a traced one passes."""
    if not is_traced(value) and not np.all(np.asarray(value) >= 0):
        raise value_error(
            argument,
            "must not be negative or NaN",
            str(np.asarray(value)),
            "Check its sign.",
        )


@dataclasses.dataclass(frozen=True)
class Projector:
    """One projection a player: applied to all of them by a call, to one by ``one``."""

    onto: tuple[_Projection | None, ...] | None

    def __bool__(self) -> bool:
        """Whether any player is held."""
        return self.onto is not None

    def __call__(self, players: Players) -> Players:
        """Every player projected onto its own set."""
        if self.onto is None:
            return players
        if len(self.onto) != len(players):
            raise value_error(
                "projections",
                f"must have one entry for each of the {len(players)} players",
                f"{len(self.onto)} entries",
                "Use None for a player without constraint.",
            )
        return tuple(self.one(i, x) for i, x in enumerate(players))

    def one(self, i: int, x: PyTree[Array]) -> PyTree[Array]:
        """Player i's position projected onto its set."""
        onto = None if self.onto is None else self.onto[i]
        return x if onto is None else onto(x)


def projector(projections: Projections) -> Projector:
    """The projections of a rule, checked."""
    if projections is None:
        return Projector(None)
    if not isinstance(projections, tuple | list) or not all(
        p is None or callable(p) for p in projections
    ):
        raise type_error(
            "projections",
            "must be a tuple with one function or None a player",
            projections,
            "Example: (None, optax.projections.projection_non_negative).",
        )
    return Projector(tuple(projections))


def axpy(a: float | Array, g: PyTree[Array], x: PyTree[Array]) -> PyTree[Array]:
    """``x + a g``, leaf by leaf, in the dtype of ``x``."""
    return jax.tree.map(lambda g, x: x + jnp.asarray(a).astype(x.dtype) * g, g, x)


def descend_one(x: PyTree[Array], eta: Scalar, g: PyTree[Array]) -> PyTree[Array]:
    """``x − η g``, leaf by leaf, in the dtype of ``x``."""
    # Not x + (−η)g: compilers hoist −η out of loops, one array for each unrolled step.
    return jax.tree.map(lambda x, g: x - jnp.asarray(eta).astype(x.dtype) * g, x, g)


def descend(players: Players, eta: Steps, gradient: Players) -> Players:
    """``xᵢ − ηᵢ gᵢ`` for every player."""
    return tuple(map(descend_one, players, eta, gradient))
