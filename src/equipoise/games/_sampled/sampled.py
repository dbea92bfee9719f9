"""Games whose payoffs are means over data, of which play sees a batch per step."""

import inspect
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from equipoise._check import at, positive_integer, rows_in_front, type_error, value_error
from equipoise._types import Array, PRNGKeyArray, PyTree, Scalar
from equipoise.games._rules.game import Batches, Game

_Payoff = Callable[..., Scalar]


@at("games.sampled")
def sampled(
    payoff: _Payoff | Sequence[_Payoff],
    data: PyTree[Array],
    *,
    batch_size: int,
    replacement: bool = False,
) -> Game:
    r"""A game whose payoffs are means over data, of which a step sees one batch.

    .. math::

        f(z) = \frac1n \sum_{i=1}^n f_i(z), \qquad
        f_B(z) = \frac1{\lvert B \rvert} \sum_{i \in B} f_i(z)

    Without a key it is its full-data mean game f wherever a game is taken: ``vector_field``,
    ``critical_step_size``, ``simulate``. With ``simulate(..., key=)`` or ``sweep(..., key=)`` each
    step of the rule plays on the game :math:`f_B` of one batch: all gradients that a step takes,
    both of extragradient and those of all players in turn, see the same rows. Batches of different
    steps are independent; passes through the data without repetition (epochs) are not modeled.

    Args:
        payoff: fᵢ(z), a function ``payoff(*players, datum)`` of the players and one row of the data
            to a scalar. A function of one player and a datum is minimized, one of two players and a
            datum is the payoff of a zero-sum game. For any other game a tuple of losses, one per
            player, each of all players and a datum.
        data: A pytree of arrays with the n rows in front. A datum is the pytree of one row.
        batch_size: B, the rows of a batch, static.
        replacement: Whether a batch is B independent rows rather than a random subset of B rows.

    Returns:
        The game. It may close over traced values, in the payoff and in the data.

    Raises:
        TypeError: If a payoff is not callable, or ``batch_size`` is no Python integer.
        ValueError: If a single payoff does not take one or two players and a datum, ``data`` has no
            leaf, no rows or leaves that differ in rows, ``batch_size`` < 1, or it exceeds n without
            replacement.

    Cost: none; the full-data game costs n payoffs, a step on a batch B of them and a draw of
    O(n log n).

    Examples:
        >>> data = jnp.array([1.0, 2.0, 6.0])
        >>> game = games.sampled(lambda x, datum: (x - datum) ** 2 / 2, data, batch_size=1)
        >>> print(game)
        General-sum game, players: 1, batches of 1 of 3 rows
        >>> [float(g) for g in games.vector_field(game, (0.0,))]
        [-3.0]
        >>> (x,) = games.simulate(game, games.simultaneous(), (0.0,),
        ...     step_size=1.0, num_steps=5, key=jax.random.key(0))
        >>> bool(jnp.all(jnp.isin(x[1:], data)))
        True

    References:
        :cite:t:`robbins1951`; :cite:t:`mulayoff2024`
    """
    payoffs, is_zero_sum = _payoffs(payoff)
    num_rows, data = rows_in_front("data", data)
    size = positive_integer("batch_size", batch_size)
    if size > num_rows and not replacement:
        raise value_error(
            "batch_size",
            f"must be at most the {num_rows} rows of `data`",
            str(size),
            "Or draw with replacement: replacement=True.",
        )
    batches = Batches(payoffs, data, size, bool(replacement))
    return on_all_data(batches, is_zero_sum=is_zero_sum)


def on_all_data(batches: Batches, *, is_zero_sum: bool) -> Game:
    """The sampled game, with the means over all data for losses."""
    losses = _losses(batches.payoffs, batches.data, is_zero_sum=is_zero_sum)
    return Game(losses, is_zero_sum, batches)


def on_a_batch(game: Game, key: PRNGKeyArray) -> Game:
    """The sampled game on the batch that a key draws."""
    batches = batches_of(game)
    n, size = batches.num_rows, batches.size
    drawn = jax.random.choice(key, n, (size,), replace=batches.replacement)
    rows = jax.tree.map(lambda leaf: leaf[drawn], batches.data)
    losses = _losses(batches.payoffs, rows, is_zero_sum=game.is_zero_sum)
    return Game(losses, game.is_zero_sum)


def batches_of(game: Game) -> Batches:
    """The batches of a game, which must be sampled."""
    if game.batches is None:
        raise type_error(
            "game",
            "must be a sampled game",
            str(game),
            "Make one: games.sampled(payoff, data, batch_size=...).",
        )
    return game.batches


def _losses(
    payoffs: Sequence[_Payoff], rows: PyTree[Array], *, is_zero_sum: bool
) -> tuple[_Payoff, ...]:
    """The losses on these rows."""

    def mean(payoff: _Payoff, sign: int) -> _Payoff:
        def loss(*players: PyTree[Array]) -> Scalar:
            values = jax.vmap(lambda datum: payoff(*players, datum))(rows)
            return sign * jnp.mean(values, axis=0)

        return loss

    if is_zero_sum:
        return mean(payoffs[0], 1), mean(payoffs[0], -1)
    return tuple(mean(payoff, 1) for payoff in payoffs)


def _payoffs(payoff: _Payoff | Sequence[_Payoff]) -> tuple[tuple[_Payoff, ...], bool]:
    """The payoffs, and whether they are one of a zero-sum game."""
    if isinstance(payoff, tuple | list) and payoff and all(map(callable, payoff)):
        return tuple(payoff), False
    if not callable(payoff):
        raise type_error(
            "payoff", "must be a function of the players and a datum, or a tuple of them", payoff
        )
    taken = inspect.signature(payoff).parameters.values()
    positional = [p for p in taken if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    num_players = sum(p.default is p.empty for p in positional) - 1
    if num_players not in (1, 2):
        raise value_error(
            "payoff",
            "must take one or two players and a datum",
            f"the parameters {inspect.signature(payoff)}",
            "For another number of players pass a tuple of losses, one per player.",
        )
    return (payoff,), num_players == 2
