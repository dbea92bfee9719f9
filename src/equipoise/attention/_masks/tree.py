"""Trees of guessed tokens: each reads its ancestors, told by two numbers per token."""

import jax
import jax.numpy as jnp

from equipoise._check import at
from equipoise._types import Array, Int, record
from equipoise.attention._masks.arrays import check_entries
from equipoise.attention._masks.kinds import entry
from equipoise.attention._masks.mask import Bounds, Extent, Indices, Mask
from equipoise.attention._masks.packed import integers


@at("attention.tree")
def tree(parents: Int[Array, "*batch t"]) -> Mask:
    r"""Guessed tokens read their ancestors in a tree, and everything before the tree.

    .. math::

        m_{ij} = [\, j < o \,] \lor [\, j - o \preceq i \,], \qquad o = \text{query offset}

    Args:
        parents: For each row the row of its parent, which comes before it; any other number, such
            as −1, says that it has none. Shape ``(*batch, t)``, or ``(t,)`` for all.

    Returns:
        A mask value. With the number of past tokens as the ``query_offset`` of the call, rows
        read all of these, and of the keys after them those of their own ancestors.

    Raises:
        ValueError: If there is no axis of rows.
        TypeError: If ``parents`` are not integers.

    Cost: O(t), in t steps one after the other, to number the tree; blocks of keys beyond the rows
        of a block are not computed.

    Examples:
        >>> x = jnp.eye(4)[:, None, :]
        >>> mask = attention.tree(jnp.array([-1, 0, 0, 2]))  # two guesses after the first token
        >>> print(attention.dot_product_attention(x, x, x, mask=mask, scale=0.0)[3, 0])
        [0.33333334 0.         0.33333334 0.33333334]

    References:
        :cite:t:`miao2024specinfer`, section 4.1.
    """
    array = integers("parents", parents, minimum_ndim=1).astype(jnp.int32)
    return _Tree(*jax.vmap(_numbered)(array.reshape(-1, array.shape[-1])))


def _numbered(parents: Array) -> tuple[Array, Array]:
    """When a walk in depth enters each row, and when it has left all below it."""
    t = parents.shape[0]
    row = jnp.arange(t, dtype=jnp.int32)
    # What has no parent hangs from one more row.
    parents = jnp.where((parents >= 0) & (parents < row), parents, t)

    def up(sizes: Array, i: Array) -> tuple[Array, None]:
        return sizes.at[parents[i]].add(sizes[i]), None

    def down(free: Array, i: Array) -> tuple[Array, Array]:
        enter = free[parents[i]]
        return free.at[parents[i]].add(sizes[i]).at[i].set(enter + 1), enter

    sizes, _ = jax.lax.scan(up, jnp.ones(t + 1, jnp.int32), row, reverse=True)
    _, enter = jax.lax.scan(down, jnp.zeros(t + 1, jnp.int32), row)
    return enter, enter + sizes[:t]


@record
class _Tree(Mask):
    """A row's ancestors are entered no later than it, and left after it is entered: (b or 1, t)."""

    enter: Array
    leave: Array

    def fitted(self, sizes: tuple[int, ...], offset: int | Array) -> Mask:
        """A place in the tree for each row."""
        check_entries(self.enter, sizes, sizes[-2:-1])
        return self

    def allowed(self, pairs: Indices) -> Array:
        """Before the tree, or an ancestor."""
        offset = pairs.query - pairs.row
        node = pairs.key - offset
        batch, last = entry(self.enter, pairs.batch), self.enter.shape[1] - 1
        at = jnp.clip(node, 0, last)
        entered = self.enter[batch, pairs.row]
        above = (self.enter[batch, at] <= entered) & (entered < self.leave[batch, at])
        return (node < 0) | (above & (node <= last))

    def bounds(self, extent: Extent) -> Bounds:
        """Ancestors come before; what came before the tree is read by all."""
        (first, _), (_, last) = extent.row, extent.query
        (k_first, k_last), offset = extent.key, extent.query[0] - first
        return k_first <= last, k_last < offset
