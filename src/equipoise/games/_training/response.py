r"""How a held optimizer answers a gradient that alternates, and a gradient along one direction.

At the loss of stability by a flip everything turns its sign each step. What the optimizer then
makes of a gradient g and of a position x is u = −(τ g + δ x), so that the critical learning rate is
2/κ, with κ the largest eigenvalue of τH + δ.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from equipoise._types import Array, PyTree
from equipoise.games._optimizers.held import Held
from equipoise.games._optimizers.leaves import wide
from equipoise.games._spectrum.lanczos import inner, rest_of, scaled

_Tree: TypeAlias = PyTree
# From tangents of gradient, moving memory and parameters to those of update and memory.
_Update: TypeAlias = Callable[[_Tree, list[Array], _Tree], tuple[_Tree, list[Array]]]


class Linear(NamedTuple):
    """A linear update, no gradient and no memory to give it, and how many numbers it remembers."""

    update: _Update
    none: _Tree
    still: list[Array]
    order: int


class _Pulse(NamedTuple):
    """What memory makes of one push, in an orthonormal basis of the space that it runs through.

    How long the push is, how memory maps the basis, and the updates that it makes of each vector.
    """

    size: Array
    matrix: Array
    updates: list[_Tree]


class Compressed(NamedTuple):
    """The update along one direction, M(η) = [[1 + η a, η c], [b, B]]."""

    a: Array
    b: Array
    c: Array
    matrix: Array


def linear_update(held: Held, params: _Tree) -> tuple[_Tree, Linear]:
    """The update of no gradient, and its derivative by gradient, moving memory and parameters."""
    still = held.still()

    def update(g: _Tree, f: list[Array], x: _Tree) -> tuple[_Tree, list[Array]]:
        return held.update(g, f, held.counts(), x)[:2]

    none = jax.tree.map(jnp.zeros_like, params)
    (rest, _), tangent = jax.linearize(update, none, still, params)

    def linear(g: _Tree, f: list[Array], x: _Tree) -> tuple[_Tree, list[Array]]:
        u, moved = tangent(_like(g, params), _like(f, still), _like(x, params))
        return widened(u), widened(moved)

    memory = sum(leaf.size for leaf in still)
    each = -(-memory // sum(leaf.size for leaf in jax.tree.leaves(params)))
    # How many numbers a coordinate has in memory; some more where coordinates differ.
    order = each if held.parts.is_common or not each else each + 4
    still = jax.tree.map(jnp.zeros_like, widened(still))
    return rest, Linear(linear, widened(none), still, order)


def flattened(linear: Linear) -> Linear:
    """The same on flat vectors, one of parameters and one of memory."""
    none, spread = ravel_pytree(linear.none)
    still, parted = ravel_pytree(linear.still)

    def update(g: Array, f: list[Array], x: Array) -> tuple[Array, list[Array]]:
        u, moved = linear.update(spread(g), parted(f[0]), spread(x))
        return ravel_pytree(u)[0], [ravel_pytree(moved)[0]]

    return Linear(update, none, [still], linear.order)


def widened(tree: _Tree) -> _Tree:
    """In float32 at least."""
    return jax.tree.map(lambda x: x.astype(wide(x.dtype)), tree)


def _like(tree: _Tree, example: _Tree) -> _Tree:
    return jax.tree.map(lambda x, e: x.astype(e.dtype), tree, example)


def _pulse(linear: Linear, first: list[Array]) -> _Pulse:
    """What memory makes of a first push."""
    order, size = linear.order, jnp.sqrt(inner(first, first)) if first else jnp.zeros(())
    basis = [jnp.zeros((order, *leaf.shape), leaf.dtype) for leaf in first]
    unit = scaled(jnp.where(size > 0, 1, 0) / jnp.where(size > 0, size, 1), first)
    matrix, updates = jnp.zeros((order, order), size.dtype), []
    for j in range(order):
        basis = [b.at[j].set(u) for b, u in zip(basis, unit, strict=True)]
        update, moved = linear.update(linear.none, unit, linear.none)
        updates.append(update)
        unit, along, norm = rest_of(moved, basis)
        matrix = matrix.at[:, j].set(along)
        if j + 1 < order:
            matrix = matrix.at[j + 1, j].set(norm)
    return _Pulse(size, matrix, updates)


def answers(linear: Linear, turn: float) -> Callable[[_Tree, _Tree], _Tree]:
    """``(g, x)`` → −u of a gradient and a position that are multiplied by ``turn`` each step."""

    def answer(g: _Tree, x: _Tree) -> _Tree:
        direct, first = linear.update(g, linear.still, x)
        if not linear.order:
            return jax.tree.map(jnp.negative, direct)
        pulse = _pulse(linear, first)
        # The memory f with turn·f = B f + the push: each step is ``turn`` times the one before.
        eye = jnp.eye(linear.order, dtype=pulse.size.dtype)
        weights = jnp.linalg.solve(turn * eye - pulse.matrix, pulse.size * eye[0])
        rows = [scaled(-w, row) for w, row in zip(weights, pulse.updates, strict=True)]
        return jax.tree.map(lambda d, *rest: sum(rest, -d), direct, *rows)

    return answer


def compressed(linear: Linear, direction: _Tree, gradient: _Tree) -> Compressed:
    """The update on one unit direction, of whose gradient this is, and the memory it reaches."""
    update, first = linear.update(gradient, linear.still, direction)
    size, matrix, updates = _pulse(linear, first)
    a, *c = (inner(direction, row) for row in (update, *updates))
    b = jnp.zeros(linear.order, a.dtype).at[:1].set(size.astype(a.dtype))
    return Compressed(a, b, jnp.stack(c) if c else b, matrix.astype(a.dtype))
