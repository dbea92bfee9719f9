"""A sampled game near a point: the quadratic model of each row, and of any mixture of rows."""

from collections.abc import Callable
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from equipoise._types import Array, Float, PyTree, record, static_field
from equipoise.games._rules.dynamics import common_dtype
from equipoise.games._rules.game import Game, Players
from equipoise.games._sampled.drawn import Rows


@record
class LocalGame:
    """Losses to second order in the distance from a point, one per player or one in all.

    They are linear in gradients and Hessians, so that a mean of such games is that of their leaves.

    Attributes:
        gradients: gₗ of each loss, by all players.
        hessians: Hₗ of each loss.
        center: The point.
        is_zero_sum: Whether the one loss is the payoff of a zero-sum game.
    """

    gradients: Float[Array, "losses n"]
    hessians: Float[Array, "losses n n"]
    center: Players
    is_zero_sum: bool = static_field()

    def again(self) -> Game:
        """The game of these losses."""

        def loss(which: int, sign: int) -> Callable[..., Array]:
            def model(*players: PyTree[Array]) -> Array:
                delta = ravel_pytree(players)[0] - ravel_pytree(self.center)[0]
                g, h = self.gradients[which], self.hessians[which]
                return sign * (g @ delta + delta @ (h @ delta) / 2)

            return model

        if self.is_zero_sum:
            return Game((loss(0, 1), loss(0, -1)), is_zero_sum=True)
        return Game(tuple(loss(which, 1) for which in range(len(self.gradients))))

    def like(self, flat: Array) -> Self:
        """The game of other gradients and Hessians, given as one vector."""
        num, n = self.gradients.shape
        gradients, packed = flat[: num * n].reshape(num, n), flat[num * n :].reshape(num, -1)
        rows, columns = jnp.triu_indices(n)
        upper = jnp.zeros((num, n, n), flat.dtype).at[:, rows, columns].set(packed)
        hessians = upper + jnp.swapaxes(jnp.triu(upper, 1), 1, 2)
        return type(self)(gradients, hessians, self.center, self.is_zero_sum)


def models(rows: Rows, players: Players) -> Array:
    """The quadratic model of each row at the players, one a vector (n, ·)."""
    flat, unravel = ravel_pytree(players)
    upper = jnp.triu_indices(flat.size)

    def of_row(datum: PyTree[Array]) -> Array:
        def losses(z: Array) -> Array:
            return jnp.stack([payoff(*unravel(z), datum) for payoff in rows.payoffs])

        gradients = jax.jacrev(losses)
        hessians = jax.jacfwd(gradients)(flat)[:, upper[0], upper[1]]
        return jnp.concatenate([gradients(flat).ravel(), hessians.ravel()])

    return jax.vmap(of_row)(rows.data)


def example(rows: Rows, players: Players) -> LocalGame:
    """A game of the models' shapes."""
    num, n = len(rows.payoffs), sum(leaf.size for leaf in jax.tree.leaves(players))
    dtype = common_dtype(players)
    gradients: PyTree = np.zeros((num, n), dtype)
    hessians: PyTree = np.zeros((num, n, n), dtype)
    return LocalGame(gradients, hessians, players, rows.is_zero_sum)
