"""Games: the losses of their players, and the field that everybody goes down."""

import dataclasses
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from equipoise._check import at, floating_tree, type_error, value_error
from equipoise._jax.traced import Traced, traced
from equipoise._types import Array, PyTree, Scalar, record, static_field

Players: TypeAlias = tuple[PyTree[Array], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
    """What the losses of a sampled game are means of, and how much of it a step sees.

    Attributes:
        payoffs: Of all players in order and one row of the data; one alone for a zero-sum game.
        data: A pytree with rows in front.
        size: B, the rows of a batch.
        replacement: Whether a batch may hold a row more than once.
    """

    payoffs: tuple[Callable[..., Scalar], ...]
    data: PyTree[Array]
    size: int
    replacement: bool

    @property
    def num_rows(self) -> int:
        """The number n of rows."""
        return int(jax.tree.leaves(self.data)[0].shape[0])


@record
class Game:
    """Losses of the players; made by ``zero_sum``, ``general_sum`` or ``sampled``.

    Attributes:
        losses: One function per player, of all players in order, to a scalar.
        is_zero_sum: Whether there are two players and the second loss is minus the first.
        batches: The data that a sampled game is played on; None for any other.
    """

    losses: tuple[Callable[..., Scalar], ...] = static_field()
    is_zero_sum: bool = static_field(default=False)
    batches: Batches | None = static_field(default=None)

    def __str__(self) -> str:
        """How many players there are, whether one loses what the other gains, and the batches."""
        kind = "Zero-sum" if self.is_zero_sum else "General-sum"
        text = f"{kind} game, players: {len(self.losses)}"
        if self.batches is None:
            return text
        return f"{text}, batches of {self.batches.size} of {self.batches.num_rows} rows"

    __repr__ = __str__


@at("games.zero_sum")
def zero_sum(payoff: Callable[..., Scalar]) -> Game:
    r"""Two players and one payoff: the first minimizes it, the second maximizes it.

    .. math::

        \min_x \max_y f(x, y)

    Args:
        payoff: f, a differentiable function of two pytrees of real arrays to a scalar. It may close
            over parameters, traced ones included; everything differentiates by them.

    Returns:
        The game, with losses f and −f.

    Raises:
        TypeError: If ``payoff`` is not callable.

    Cost: none; a gradient of f for both players costs one reverse pass.

    Examples:
        >>> game = games.zero_sum(lambda p, q: p * q)
        >>> [float(g) for g in games.vector_field(game, (1.0, 2.0))]
        [2.0, -1.0]

    References:
        :cite:t:`goodfellow2014`
    """
    _check_callable("payoff", payoff)

    def minus(*players: PyTree[Array]) -> Scalar:
        return -payoff(*players)

    return Game((payoff, minus), is_zero_sum=True)


@at("games.general_sum")
def general_sum(*losses: Callable[..., Scalar]) -> Game:
    r"""N ≥ 1 players, each of which minimizes its own loss of everybody's position.

    .. math::

        \min_{x_i} f_i(x_1, \dots, x_n), \qquad i = 1, \dots, n

    Args:
        *losses: fᵢ, differentiable functions of all n players in order to a scalar. They may close
            over parameters. One loss alone is plain optimization.

    Returns:
        The game.

    Raises:
        TypeError: If one of ``losses`` is not callable.
        ValueError: If there are none.

    Cost: none; the vector field costs one reverse pass per player.

    Examples:
        >>> game = games.general_sum(lambda x: 3 * x**2)
        >>> float(games.vector_field(game, (1.0,))[0])
        6.0

    References:
        :cite:t:`rosen1965`
    """
    if not losses:
        raise value_error(
            "losses",
            "must hold at least one loss",
            "none",
            "Pass one per player.",
        )
    for loss in losses:
        _check_callable("losses", loss)
    return Game(losses)


@at("games.vector_field")
def vector_field(game: Game, players: Players) -> Players:
    r"""The gradient of each player's own loss by its own position.

    .. math::

        F(z) = \bigl(\nabla_{x_1} f_1(z), \dots, \nabla_{x_n} f_n(z)\bigr), \qquad
        z = (x_1, \dots, x_n)

    For a zero-sum game F = (∇ₓf, −∇ᵧf): both players go *down* F.

    Args:
        game: The game.
        players: z, a tuple of one pytree of real arrays per player.

    Returns:
        F(z), with the structure of ``players``.

    Raises:
        TypeError: If a player is not real and floating-point, or a payoff returns no real scalar.
        ValueError: If the number of players is not the game's, or a payoff is not a scalar.

    Cost: one reverse pass of each loss (one in all for a zero-sum game).

    Examples:
        >>> game = games.zero_sum(lambda x, y: jnp.sum(x * y))
        >>> x, y = jnp.ones(2), jnp.arange(2.0)
        >>> jax.tree.map(lambda g: g.tolist(), games.vector_field(game, (x, y)))
        ([0.0, 1.0], [-1.0, -1.0])

    References:
        :cite:t:`balduzzi2018`
    """
    players = checked_players(game, players)
    found: Players = _field(traced_game(game, players), players)
    return found


@record
class TracedGame:
    """A game as data: what its payoffs close over are leaves, what they compute is static."""

    payoffs: tuple[Traced, ...]
    is_zero_sum: bool = static_field()

    def again(self) -> Game:
        """The game of these payoffs."""
        return zero_sum(*self.payoffs) if self.is_zero_sum else general_sum(*self.payoffs)


def traced_game(game: Game, players: Players, *, is_long: bool = False) -> TracedGame:
    """The game for players of these shapes; its Python numbers are data unless a run is long."""
    payoffs = game.losses[:1] if game.is_zero_sum else game.losses
    found = tuple(traced(f, *players, kept=lambda number: is_long) for f in payoffs)
    return TracedGame(found, game.is_zero_sum)


@jax.jit
def _field(game: TracedGame, players: Players) -> Players:
    return field(game.again(), players)


def field(game: Game, players: Players) -> Players:
    """``vector_field`` without checks."""
    if game.is_zero_sum:
        x, y = _gradient(game.losses[0], (0, 1))(*players)
        return x, jax.tree.map(jnp.negative, y)
    return tuple(partial_gradient(game, i, players) for i in range(len(players)))


def partial_gradient(game: Game, player: int, players: Players) -> PyTree[Array]:
    """The gradient of one player's loss by its own position."""
    (gradient,) = _gradient(game.losses[player], (player,))(*players)
    return gradient


def _gradient(loss: Callable[..., Scalar], argnums: tuple[int, ...]) -> Callable[..., Players]:
    """The gradient by some players; that of a traced loss is known to all that compute alike."""
    return loss.gradient(argnums) if isinstance(loss, Traced) else jax.grad(loss, argnums)


def checked_players(game: Game, players: Players, argument: str = "players") -> Players:
    """The players as a tuple of pytrees of strongly typed real arrays that fit the game."""
    if not isinstance(game, Game):
        raise type_error("game", "must be a Game", game, "Make one: games.zero_sum(payoff).")
    if not isinstance(players, tuple | list):
        raise type_error(
            argument,
            "must be a tuple of one pytree per player",
            players,
            "Wrap a single player: (x,).",
        )
    if len(players) != len(game.losses):
        raise value_error(
            argument,
            f"must have one entry for each of the game's {len(game.losses)} players",
            f"{len(players)} entries",
        )
    checked = tuple(floating_tree(f"{argument}[{i}]", player) for i, player in enumerate(players))
    # Of a zero-sum game the second loss is the first one's negative.
    for i, loss in enumerate(game.losses[:1] if game.is_zero_sum else game.losses):
        value = loss.shapes if isinstance(loss, Traced) else jax.eval_shape(loss, *checked)
        if not hasattr(value, "shape") or value.shape != ():
            raise value_error(
                "game",
                f"must have scalar payoffs, but the payoff of player {i} is not one",
                str(jax.tree.map(lambda leaf: leaf.shape, value)),
                "Sum or average it.",
            )
        if not jnp.issubdtype(value.dtype, jnp.floating):
            raise type_error(
                "game", f"must have real payoffs, also for player {i}", str(value.dtype)
            )
    return checked


def _check_callable(argument: str, value: object) -> None:
    if not callable(value):
        raise type_error(argument, "must be a function of the players", value)
