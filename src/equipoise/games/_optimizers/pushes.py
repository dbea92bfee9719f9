"""Programs that push an optimizer and say what its state and its updates make of it."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from equipoise._jax.tracing.brief import briefly
from equipoise._types import Array, PyTree
from equipoise.games._optimizers.leaves import (
    NEARLY_ZERO,
    is_float,
    is_whole,
    joined,
    lifted,
    split,
    wide,
)
from equipoise.games._optimizers.optimizer import Optimizer, Shapes

_LONGEST_PERIOD = 64
PUSH = 1e-10
_SAMPLE = 1024  # coordinates of a leaf that are looked at


class Static:
    """Shapes as a static argument: equal where structure, shapes and dtypes are."""

    def __init__(self, shapes: Shapes) -> None:
        leaves, structure = jax.tree.flatten(shapes)
        self.shapes = shapes
        self.key = structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Static) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def _wave(like: PyTree, phase: float) -> PyTree[Array]:
    """Numbers of no regularity in [-1, 1], away from 0."""

    def leaf(shape: jax.ShapeDtypeStruct) -> Array:
        number = jnp.arange(math.prod(shape.shape), dtype=jnp.float32)
        wave = jnp.sin(phase * (number + 1) + phase)
        signed = jnp.where(wave < 0, -0.5, 0.5) + wave / 2
        return signed.reshape(shape.shape).astype(shape.dtype)

    return jax.tree.map(leaf, like)


def _full(like: PyTree, value: float) -> PyTree[Array]:
    return jax.tree.map(lambda s: jnp.full(s.shape, value, s.dtype), like)


def _stacked(*trees: PyTree) -> PyTree:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _begun(optimizer: Optimizer, shapes: Shapes) -> tuple[PyTree, PyTree]:
    """Made-up parameters and the state before the first update."""
    params = _full(shapes.params, 1.0)
    return params, optimizer.init(params)


@functools.partial(briefly, static_argnums=(1,))
def count_history(optimizer: Optimizer, static: Static) -> Array:
    """Each whole-number leaf of one entry over the updates; nothing else has to be computed."""
    params, start = _begun(optimizer, static.shapes)
    gradient = _full(static.shapes.params, NEARLY_ZERO)
    leaves, structure = jax.tree.flatten(start)
    whole = [is_whole(leaf) for leaf in leaves]

    def counts(state: PyTree) -> list[Array]:
        return [leaf for leaf, w in zip(jax.tree.leaves(state), whole, strict=True) if w]

    def one(now: list[Array], _: None) -> tuple[list[Array], Array]:
        mixed, rest = iter(now), iter(leaves)
        state = [(next(mixed), next(rest))[0] if w else next(rest) for w in whole]
        _, later = optimizer.update(gradient, jax.tree.unflatten(structure, state), params)
        found = counts(later)
        # Their sums tell whether a leaf is back.
        said = [jnp.sum(x.astype(jnp.int32)) for x in found]
        return found, jnp.stack(said) if said else jnp.zeros(0, jnp.int32)

    first = [jnp.sum(x.astype(jnp.int32)) for x in counts(start)]
    _, history = jax.lax.scan(one, counts(start), None, length=_LONGEST_PERIOD)
    return jnp.concatenate([jnp.stack(first)[None] if first else history[:1], history])


@functools.partial(briefly, static_argnums=(1, 2))
def largest_tangents(optimizer: Optimizer, static: Static, num_updates: int) -> Array:
    """The largest tangent of each leaf of the state, of gradients and parameters that vary by 1.

    It is the lesser of two: at the first state squares vanish, after a gradient moduli do that
    compete with the past.
    """
    params, start = _begun(optimizer, static.shapes)
    seen = optimizer.update(_full(static.shapes.params, 1.0), start, params)[1]
    if not jax.tree.leaves(start):
        return jnp.zeros(0)
    starts = _stacked(*(jax.tree.map(lifted, begin) for begin in (start, seen)))
    return jnp.min(
        jax.vmap(lambda begin: _tangents_at(optimizer, static, num_updates, params, begin))(starts),
        axis=0,
    )


def _tangents_at(
    optimizer: Optimizer, static: Static, num_updates: int, params: PyTree, start: PyTree
) -> Array:
    gradient = _full(static.shapes.params, NEARLY_ZERO)
    push, shift = _wave(static.shapes.params, 1.3), _wave(static.shapes.params, 0.7)
    real = [is_float(leaf) for leaf in jax.tree.leaves(start)]

    def floats(state: PyTree) -> list[Array]:
        return split(state, real)[0]

    def one(carry: Any, _: None) -> tuple[Any, Array]:
        state, moved = carry
        rest = split(state, real)[1]

        def update(g: PyTree, f: list[Array], x: PyTree) -> tuple[list[Array], PyTree]:
            _, later = optimizer.update(g, joined(f, rest, real, state), x)
            return floats(later), later

        point, along = (gradient, floats(state), params), (push, moved, shift)
        _, tangents, later = jax.jvp(update, point, along, has_aux=True)
        sizes = iter([jnp.max(jnp.abs(t), initial=0.0).astype(jnp.float32) for t in tangents])
        return (later, tangents), jnp.stack(
            [next(sizes) if r else jnp.zeros((), jnp.float32) for r in real]
        )

    still = [jnp.zeros_like(leaf) for leaf in floats(start)]
    sizes: Array
    _, sizes = jax.lax.scan(one, (start, still), None, length=num_updates)
    return jnp.max(sizes, axis=0)


class Answers(NamedTuple):
    """What an optimizer answers, over some updates, to one gradient that is not nothing.

    One row per update, one column per coordinate that is looked at.

    Attributes:
        up: The updates after a small push by the signs.
        down: Those after the opposite push.
        by_signs: Their derivative along the signs.
        by_ones: Their derivative by all gradients at once.
        shifted: Their derivative by the parameters, along the signs.
        all_shifted: That by all parameters at once.
        signs: One for each coordinate.
        is_fed: Whether gradients feed a leaf of slow memory, one entry per leaf.
    """

    up: Array
    down: Array
    by_signs: Array
    by_ones: Array
    shifted: Array
    all_shifted: Array
    signs: Array
    is_fed: list[Array]


@functools.partial(briefly, static_argnums=(1, 2, 3))
def answers_to_pushes(
    optimizer: Optimizer, static: Static, moves: tuple[bool, ...], period: int
) -> Answers:
    """The answers to small pushes of the gradient and of the parameters."""
    like = static.shapes.params
    params, start = _begun(optimizer, static.shapes)
    nothing, zeros, ones = (_full(like, value) for value in (NEARLY_ZERO, 0.0, 1.0))
    signs = jax.tree.map(jnp.sign, _wave(like, 1.3))

    def after(gradient: PyTree) -> PyTree:
        state = start
        for _ in range(period):
            state = optimizer.update(gradient, state, params)[1]
        return state

    both = jax.vmap(after)(_stacked(nothing, ones))
    is_fed = [
        jnp.any(leaf[0] != leaf[1]) & (is_float(leaf) and not m)
        for leaf, m in zip(jax.tree.leaves(both), moves, strict=True)
    ]
    # What moves is at rest; what is slow has seen something.
    fed = split(jax.tree.map(lambda leaf: leaf[1], both), moves)[1]
    state = joined(split(start, moves)[0], fed, moves, start)

    def updates(g: PyTree, x: PyTree) -> Array:
        def one(now: PyTree, first: Array) -> tuple[PyTree, Array]:
            given = jax.tree.map(lambda a, b: jnp.where(first, a, b), g, nothing)
            update, later = optimizer.update(given, now, x)
            moved, _ = split(later, moves)
            counts = [
                new if not is_float(new) else old
                for new, old in zip(split(later, moves)[1], split(now, moves)[1], strict=True)
            ]
            return joined(moved, counts, moves, start), _flat(update)

        length = 4 * period
        return jax.lax.scan(one, state, jnp.arange(length) == 0)[1]

    def pushed(size: float) -> PyTree:
        return jax.tree.map(lambda b, s: b + jnp.asarray(size, b.dtype) * s, nothing, signs)

    # Two values and four derivatives at once: an optimizer takes long to compile.
    values, derivatives = jax.vmap(lambda g, v, w: jax.jvp(updates, (g, params), (v, w)))(
        _stacked(pushed(PUSH), pushed(-PUSH), *4 * [nothing]),
        _stacked(zeros, zeros, signs, ones, zeros, zeros),
        _stacked(*4 * [zeros], signs, ones),
    )
    return Answers(
        up=values[0],
        down=values[1],
        by_signs=derivatives[2],
        by_ones=derivatives[3],
        shifted=derivatives[4],
        all_shifted=derivatives[5],
        signs=_flat(signs),
        is_fed=is_fed,
    )


def _flat(tree: PyTree) -> Array:
    """The first coordinates of each leaf; they stand for the others."""
    leaves = jax.tree.leaves(tree)
    dtype = max((wide(leaf.dtype) for leaf in leaves), key=lambda d: d.itemsize)
    return jnp.concatenate([leaf.ravel()[:_SAMPLE].astype(dtype) for leaf in leaves])
