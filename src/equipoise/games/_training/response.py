r"""How a held optimizer answers a gradient that alternates, and a gradient along one direction.

At the loss of stability by a flip everything turns its sign each step. What the optimizer then
makes of a gradient g and of a position x is u = −(τ g + δ x), so that the critical learning rate is
2/κ, with κ the largest eigenvalue of τH + δ.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from equipoise._types import Array, PyTree
from equipoise.games._optimizers.held import Held
from equipoise.games._optimizers.pushes import wide
from equipoise.games._spectrum.lanczos import combined, inner, rest_of, scaled

_Tree: TypeAlias = PyTree
# From tangents of gradient, moving memory and parameters to those of update and memory.
_Linear: TypeAlias = Callable[[_Tree, list[Array], _Tree], tuple[_Tree, list[Array]]]


class _Pulse(NamedTuple):
    """What memory makes of one push: an orthonormal basis, how it maps it, and how long it is."""

    basis: list[Array]
    matrix: Array
    size: Array


class Compressed(NamedTuple):
    """The update along one direction, M(η) = [[1 + η a, η c], [b, B]]."""

    a: Array
    b: Array
    c: Array
    matrix: Array


def linear_update(held: Held, params: _Tree) -> _Linear:
    """The derivative of the update by gradient, moving memory and parameters."""
    still = held.still()

    def update(g: _Tree, f: list[Array], x: _Tree) -> tuple[_Tree, list[Array]]:
        return held.update(g, f, held.counts(), x)[:2]

    none = jax.tree.map(jnp.zeros_like, params)
    _, tangent = jax.linearize(update, none, still, params)

    def linear(g: _Tree, f: list[Array], x: _Tree) -> tuple[_Tree, list[Array]]:
        u, moved = tangent(_like(g, params), _like(f, still), _like(x, params))
        return widened(u), widened(moved)

    return linear


def widened(tree: _Tree) -> _Tree:
    """In float32 at least."""
    return jax.tree.map(lambda x: x.astype(wide(x.dtype)), tree)


def _like(tree: _Tree, example: _Tree) -> _Tree:
    return jax.tree.map(lambda x, e: x.astype(e.dtype), tree, example)


def _num_poles(held: Held, params: _Tree) -> int:
    """How many numbers a coordinate has in memory; some more where coordinates differ."""
    memory = sum(leaf.size for leaf in held.still())
    each = -(-memory // sum(leaf.size for leaf in jax.tree.leaves(params)))
    return each if held.parts.is_common or not each else each + 4


def _pulse(advance: Callable[[list[Array]], list[Array]], first: list[Array], order: int) -> _Pulse:
    """The space that memory runs through after a first push."""
    basis = [jnp.zeros((order, *leaf.shape), leaf.dtype) for leaf in first]
    size = jnp.sqrt(inner(first, first))
    unit = scaled(jnp.where(size > 0, 1, 0) / jnp.where(size > 0, size, 1), first)
    matrix = jnp.zeros((order, order), size.dtype)
    for j in range(order):
        basis = [b.at[j].set(u) for b, u in zip(basis, unit, strict=True)]
        unit, along, norm = rest_of(advance(unit), basis)
        matrix = matrix.at[:, j].set(along)
        if j + 1 < order:
            matrix = matrix.at[j + 1, j].set(norm)
    return _Pulse(basis, matrix, size)


def _settled(found: _Pulse, turn: float) -> list[Array]:
    """The memory f with turn·f = B f + the push: each step is ``turn`` times the one before."""
    order = len(found.matrix)
    if not order:
        return []
    first = jnp.zeros(order, found.size.dtype).at[0].set(found.size)
    shifted = turn * jnp.eye(order, dtype=found.size.dtype) - found.matrix
    return list(combined(jnp.linalg.solve(shifted, first), found.basis))


def answers(linear: _Linear, held: Held, params: _Tree, turn: float) -> Callable[..., _Tree]:
    """``(g, x)`` → −u of a gradient and a position that are multiplied by ``turn`` each step."""
    still = [jnp.zeros_like(f) for f in widened(held.still())]
    none = jax.tree.map(jnp.zeros_like, widened(params))
    order = _num_poles(held, params)

    def answer(g: _Tree, x: _Tree) -> _Tree:
        direct, first = linear(g, still, x)
        if order:
            found = _pulse(lambda f: linear(none, f, none)[1], first, order)
            remembered, _ = linear(none, _settled(found, turn), none)
            direct = jax.tree.map(jnp.add, direct, remembered)
        return jax.tree.map(jnp.negative, direct)

    return answer


def compressed(
    linear: _Linear, held: Held, params: _Tree, direction: _Tree, gradient: _Tree
) -> Compressed:
    """The update on one direction, of whose gradient this is, and the memory that it reaches."""
    still = [jnp.zeros_like(f) for f in widened(held.still())]
    none = jax.tree.map(jnp.zeros_like, widened(params))
    along = inner(direction, direction)
    update, first = linear(gradient, still, direction)
    a, order = inner(direction, update) / along, _num_poles(held, params)
    if not order:
        return Compressed(
            a, jnp.zeros(0, a.dtype), jnp.zeros(0, a.dtype), jnp.zeros((0, 0), a.dtype)
        )
    found = _pulse(lambda f: linear(none, f, none)[1], first, order)
    rows = [linear(none, [b[j] for b in found.basis], none)[0] for j in range(order)]
    c = jnp.stack([inner(direction, row) for row in rows]) / along
    b = jnp.zeros(order, a.dtype).at[0].set(found.size)
    return Compressed(a, b, c, found.matrix)
