import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._check_old import is_traced, type_error, value_error
from equipoise._types import Array, PyTree, Scalar, result, static_field
from equipoise.games._game import Game, Players, checked_players

StepSize: TypeAlias = float | Array | Sequence[float | Array]
Steps: TypeAlias = tuple[Scalar, ...]
Projections: TypeAlias = Sequence[Callable[[Any], Any] | None] | None


@result
class State:
    """Where the players are, and what their update rule remembers.

    Attributes:
        players: The positions, a tuple of one pytree a player.
        memory: What else the next step depends on: momentum, past gradients, optimizer states. An
            empty tuple for a rule without memory.
    """

    players: Players
    memory: PyTree


@result
class Rule:
    """An update rule: a pure function from one state of play to the next.

    Write your own with these three fields; everything in this area then works with it.

    Attributes:
        name: What it is called in tables and figures.
        init: ``init(game, players, step_size)`` gives the ``State`` before the first step.
        step: ``step(game, state, step_size)`` gives the next ``State``. The step size is one number
            or one a player.
    """

    name: str = static_field()
    init: Callable[[Game, Players, StepSize], State] = static_field()
    step: Callable[[Game, State, StepSize], State] = static_field()

    def __str__(self) -> str:
        """The name."""
        return f"Rule {self.name}"


def make_rule(
    name: str,
    advance: Callable[[Game, Players, Any, Steps], tuple[Players, Any]],
    remember: Callable[[Game, Players, Steps], Any] = lambda game, players, eta: (),
    *,
    num_players: int | None = None,
) -> Rule:
    """A rule from ``advance(game, players, memory, eta) -> players, memory``, eta one a player."""
    where = f"games.{name}"

    def init(game: Game, players: Players, step_size: StepSize) -> State:
        players = checked_players(where, game, players)
        if num_players not in (None, len(players)):
            raise value_error(
                where, "game", f"must have {num_players} players", f"{len(players)} players"
            )
        return State(players, remember(game, players, step_sizes(where, step_size, len(players))))

    def step(game: Game, state: State, step_size: StepSize) -> State:
        eta = step_sizes(where, step_size, len(state.players))
        return State(*advance(game, state.players, state.memory, eta))

    return Rule(name, init, step)


def step_sizes(where: str, step_size: Any, num_players: int) -> Steps:
    """One step size a player, from one for all or one for each."""
    if isinstance(step_size, tuple | list):
        sizes = tuple(step_size)
    elif np.ndim(step_size) == 1:
        sizes = tuple(step_size[i] for i in range(np.shape(step_size)[0]))
    else:
        sizes = (step_size,) * num_players
    if len(sizes) != num_players:
        raise value_error(
            where,
            "step_size",
            f"must be one number or one for each of the {num_players} players",
            f"{len(sizes)} numbers",
        )
    return tuple(checked_step_size(where, "step_size", size) for size in sizes)


def checked_step_size(where: str, argument: str, size: Any) -> Scalar:
    """A real scalar; where it is known, it is neither negative nor NaN."""
    array = jnp.asarray(size)
    if array.ndim != 0:
        raise value_error(where, argument, "must be a number", array)
    if jnp.issubdtype(array.dtype, jnp.complexfloating) or array.dtype == jnp.bool_:
        raise type_error(where, argument, "must be real", array)
    check_not_negative(where, argument, array)
    return array


def check_not_negative(where: str, argument: str, value: Any) -> None:
    """Reject negative and NaN entries of a concrete array; a traced one passes."""
    if not is_traced(value) and not np.all(np.asarray(value) >= 0):
        raise value_error(
            where,
            argument,
            "must not be negative or NaN",
            str(np.asarray(value)),
            "Check its sign.",
        )


def common_step(where: str, ratios: Any, num_players: int, dtype: Any) -> Callable[[Array], Steps]:
    """From a common step size to one a player, each its own multiple."""
    if ratios is None:
        return lambda eta: (eta,) * num_players
    if not isinstance(ratios, tuple | list) and np.ndim(ratios) != 1:
        raise value_error(where, "step_ratios", "must have one number a player", ratios)
    if len(ratios) != num_players:
        raise value_error(
            where,
            "step_ratios",
            f"must have one entry for each of the {num_players} players",
            f"{len(ratios)} entries",
        )
    factors = [checked_step_size(where, "step_ratios", r).astype(dtype) for r in ratios]
    return lambda eta: tuple(eta * factor for factor in factors)


@dataclasses.dataclass(frozen=True)
class Projector:
    """One projection a player: applied to all of them by a call, to one by ``one``."""

    where: str
    onto: tuple[Callable[[Any], Any] | None, ...] | None

    def __call__(self, players: Players) -> Players:
        """Every player projected onto its own set."""
        if self.onto is None:
            return players
        if len(self.onto) != len(players):
            raise value_error(
                self.where,
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


def projector(where: str, projections: Projections) -> Projector:
    """The projections of a rule, checked."""
    if projections is None:
        return Projector(where, None)
    if not isinstance(projections, tuple | list) or not all(
        p is None or callable(p) for p in projections
    ):
        raise type_error(
            where,
            "projections",
            "must be a tuple with one function or None a player",
            projections,
            "Example: (None, optax.projections.projection_non_negative).",
        )
    return Projector(where, tuple(projections))


def axpy(a: Any, g: PyTree[Array], x: PyTree[Array]) -> PyTree[Array]:
    """``x + a g``, leaf by leaf, in the dtype of ``x``."""
    return jax.tree.map(lambda g, x: x + jnp.asarray(a).astype(x.dtype) * g, g, x)


def descend_one(x: PyTree[Array], eta: Any, g: PyTree[Array]) -> PyTree[Array]:
    """``x − η g``, leaf by leaf, in the dtype of ``x``."""
    # Not x + (−η)g: compilers hoist −η out of loops, one array for each unrolled step.
    return jax.tree.map(lambda x, g: x - jnp.asarray(eta).astype(x.dtype) * g, x, g)


def descend(players: Players, eta: Steps, gradient: Players) -> Players:
    """``xᵢ − ηᵢ gᵢ`` for every player."""
    return tuple(map(descend_one, players, eta, gradient))
