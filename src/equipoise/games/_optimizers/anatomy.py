"""What moves in an optimizer's state, found by pushing the optimizer itself.

A leaf of the state moves with the players if its derivative by a gradient, by the parameters or by
other such leaves is not zero where the gradient is: momentum does, a second moment is even in the
gradient and does not. What does not move is slow and can be held: second moments, step counts,
hyperparameters. All is learned from made-up values of the right shapes, so that it is known while
tracing.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._check import is_traced, type_error, value_error
from equipoise._types import Array, PyTree
from equipoise.games._optimizers.optimizer import Optimizer, Shapes
from equipoise.games._rules.numerics import rounding

_LONGEST_PERIOD = 64
_LEAST_TANGENT = 1e-9  # of the gradient's: above it is memory, below is a square of `NEARLY_ZERO`
_LARGEST_BEND = 0.1  # between a finite push and the derivative, as a part of the latter
# A gradient whose square is nothing beside any ε of an optimizer, yet no float32 zero: at 0 itself
# norms have no derivative.
NEARLY_ZERO = 1e-17
_PUSH = 1e-10
_SAMPLE = 1024  # coordinates of a leaf that are looked at


class Anatomy(NamedTuple):
    """What an optimizer is made of, all of it static.

    Attributes:
        moves: Whether a leaf of the state moves with the players, one entry a leaf.
        period: How many updates bring the step counts that turn in a circle back.
        is_fed: Whether a slow leaf is fed by gradients, as a second moment is.
        is_diagonal: Whether each coordinate answers its own gradient alone, and downhill.
        is_common: Whether, but for a factor, all coordinates answer alike.
        is_late: Whether a coordinate goes down a gradient that stays, and up one that alternates.
    """

    moves: tuple[bool, ...]
    period: int
    is_fed: tuple[bool, ...]
    is_diagonal: bool
    is_common: bool
    is_late: bool


def split(state: PyTree, moves: Sequence[bool]) -> tuple[list[Array], list[Array]]:
    """The leaves of a state that move, and the others."""
    leaves = jax.tree.leaves(state)
    moving = [leaf for leaf, m in zip(leaves, moves, strict=True) if m]
    return moving, [leaf for leaf, m in zip(leaves, moves, strict=True) if not m]


def joined(
    moving: Sequence[Array], others: Sequence[Array], moves: Sequence[bool], like: PyTree
) -> PyTree:
    """The state of which these are the two parts."""
    a, b = iter(moving), iter(others)
    return jax.tree.unflatten(jax.tree.structure(like), [next(a if m else b) for m in moves])


def is_float(leaf: Array) -> bool:
    """Whether it is an array of real numbers."""
    return bool(jnp.issubdtype(leaf.dtype, jnp.floating))


def wide(dtype: np.dtype) -> np.dtype:
    """The dtype, float32 at least."""
    return dtype if dtype.itemsize >= 4 else np.dtype(np.float32)


def lifted(leaf: Array) -> Array:
    """The leaf with its zeros a hair above zero, where roots have derivatives."""
    if not is_float(leaf):
        return leaf
    least = jnp.asarray(100 * NEARLY_ZERO**2, leaf.dtype)
    return jnp.where(jnp.abs(leaf) < least, least, leaf)


def anatomy(
    argument: str, optimizer: Optimizer, shapes: Shapes, frozen: PyTree | None = None
) -> Anatomy:
    """What the optimizer is made of; one whose derivative is no guide is refused with the reason.

    ``frozen`` says for each leaf of the state (or subtree) whether it is held, where it is given.
    """
    if any(map(is_traced, jax.tree.leaves(optimizer))):
        raise type_error(
            argument,
            "must close over known numbers",
            "one that closes over traced values",
            "Pass what varies in the optimizer's state, with optax.inject_hyperparams.",
        )
    static = _Static(shapes)
    period = _period(_evaluated(_counts, optimizer, static))
    if frozen is None:
        sizes = _evaluated(_tangents, optimizer, static, 2 * period + 2)
        moves = tuple(bool(size > _LEAST_TANGENT) for size in sizes)
    else:
        flags = jax.tree.map(lambda f, sub: jax.tree.map(lambda _: f, sub), frozen, shapes.state)
        leaves = zip(jax.tree.leaves(flags), jax.tree.leaves(shapes.state), strict=True)
        moves = tuple(not held and is_float(leaf) for held, leaf in leaves)
    *found, fed = _evaluated(_pushed, optimizer, static, moves, period)
    answer, finite, bent, crossed, uneven, uphill, is_late = map(float, found)
    advice = "Its linearization says nothing of what a push does."
    if not finite:
        raise value_error(
            argument, "must have a finite update for small gradients", "one that has none"
        )
    if bent > _LARGEST_BEND:
        raise value_error(
            argument,
            "must answer a small push of the gradient in proportion",
            "one that does not, as the sign or the direction of a gradient",
            advice,
        )
    if answer == 0:
        raise value_error(argument, "must move the parameters", "one whose update is 0", advice)
    near = 1e-3
    is_diagonal = crossed < near and not uphill
    is_common = is_diagonal and uneven < near
    return Anatomy(moves, period, tuple(map(bool, fed)), is_diagonal, is_common, bool(is_late))


def _evaluated(function: Callable[..., PyTree], *args: Any) -> PyTree:
    """What a compiled function says, also while another program is being traced."""
    found = function(*args)
    if any(map(is_traced, jax.tree.leaves(found))):
        with jax.ensure_compile_time_eval():
            found = function(*args)
    return jax.tree.map(np.asarray, found)


class _Static:
    """Shapes as a static argument: equal where structure, shapes and dtypes are."""

    def __init__(self, shapes: Shapes) -> None:
        leaves, structure = jax.tree.flatten(shapes)
        self.shapes = shapes
        self.key = structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Static) and self.key == other.key

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


def _begun(optimizer: Optimizer, shapes: Shapes) -> tuple[PyTree, PyTree]:
    """Made-up parameters and the state before the first update."""
    params = _full(shapes.params, 1.0)
    return params, optimizer.init(params)


@functools.partial(jax.jit, static_argnums=1)
def _counts(optimizer: Optimizer, static: _Static) -> Array:
    """Each whole-number leaf of one entry over the updates; nothing else has to be computed."""
    params, start = _begun(optimizer, static.shapes)
    gradient = _full(static.shapes.params, NEARLY_ZERO)
    leaves, structure = jax.tree.flatten(start)
    whole = [not is_float(leaf) for leaf in leaves]

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


def _period(history: np.ndarray) -> int:
    """The least number of updates after which all counts that come back are back."""
    periods = [1]
    for count in history.T:
        back = np.flatnonzero(count[1:] == count[0])
        changes = np.flatnonzero(count[1:] != count[0])
        if changes.size and back.size and back[-1] > changes[0]:
            periods.append(int(back[back > changes[0]][0]) + 1)
    return math.lcm(*periods)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _tangents(optimizer: Optimizer, static: _Static, num_updates: int) -> Array:
    """The largest tangent of each leaf of the state, of gradients and parameters that vary by 1.

    It is the lesser of two: at the first state squares vanish, after a gradient moduli do that
    compete with the past.
    """
    params, start = _begun(optimizer, static.shapes)
    seen = optimizer.update(_full(static.shapes.params, 1.0), start, params)[1]
    if not jax.tree.leaves(start):
        return jnp.zeros(0)
    both = [
        _tangents_at(optimizer, static, num_updates, params, jax.tree.map(lifted, begin))
        for begin in (start, seen)
    ]
    return jnp.minimum(*both)


def _tangents_at(
    optimizer: Optimizer, static: _Static, num_updates: int, params: PyTree, start: PyTree
) -> Array:
    gradient = _full(static.shapes.params, NEARLY_ZERO)
    push, shift = _wave(static.shapes.params, 1.3), _wave(static.shapes.params, 0.7)
    real = [is_float(leaf) for leaf in jax.tree.leaves(start)]

    def floats(state: PyTree) -> list[Array]:
        return split(state, real)[0]

    def one(carry: Any, _: None) -> tuple[Any, Array]:
        state, moved = carry
        _, rest = split(state, real)

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
    _, sizes = jax.lax.scan(one, (start, still), None, length=num_updates)
    return jnp.max(sizes, axis=0)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _pushed(
    optimizer: Optimizer, static: _Static, moves: tuple[bool, ...], period: int
) -> tuple[Array, ...]:
    """What small pushes of the gradient do over some updates.

    How large the answer is, whether it is finite, how much of it the derivative misses; how much
    coordinates answer to each other, how differently they answer to their own gradient, whether
    any goes uphill, and only where it alternates; and which leaves of slow memory are fed.
    """
    like = static.shapes.params
    params, start = _begun(optimizer, static.shapes)
    nothing, ones, signs = _full(like, NEARLY_ZERO), _full(like, 1.0), _wave(like, 1.3)
    signs = jax.tree.map(jnp.sign, signs)
    quiet = optimizer.update(nothing, start, params)[1]
    seen = optimizer.update(ones, start, params)[1]
    for _ in range(period - 1):
        quiet = optimizer.update(nothing, quiet, params)[1]
        seen = optimizer.update(ones, seen, params)[1]
    # What moves is at rest; what is slow has seen something.
    fed = split(seen, moves)[1]
    triples = zip(jax.tree.leaves(quiet), jax.tree.leaves(seen), moves, strict=True)
    is_fed = [jnp.any(a != b) & (is_float(a) and not m) for a, b, m in triples]
    state = joined(split(start, moves)[0], fed, moves, start)

    def answers(g: PyTree, x: PyTree) -> Array:
        """The updates after a gradient that comes once, flat, one row each."""

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

    def pushes(size: float) -> PyTree:
        return jax.tree.map(lambda b, s: b + jnp.asarray(size, b.dtype) * s, nothing, signs)

    def derivative(along: PyTree, shift: PyTree) -> Array:
        return jax.jvp(answers, (nothing, params), (along, shift))[1]

    zeros = _full(like, 0.0)
    up, down = answers(pushes(_PUSH), params), answers(pushes(-_PUSH), params)
    by_signs, by_ones = derivative(signs, zeros), derivative(ones, zeros)
    shifted, all_shifted = derivative(zeros, signs), derivative(zeros, ones)
    size = jnp.linalg.norm(by_signs)
    noise = 1e3 * rounding(up.dtype) * (jnp.linalg.norm(up) + jnp.linalg.norm(down))
    missed = jnp.linalg.norm(up - down - 2 * _PUSH * by_signs)
    answer = jnp.maximum(jnp.linalg.norm(up - down) / (2 * _PUSH), size)
    bent = jnp.maximum(missed - noise, 0) / jnp.maximum(2 * _PUSH * size, 1e-30)
    mask = _flat(signs)[None]
    whole = jnp.maximum(jnp.abs(by_ones), jnp.abs(by_signs))
    crossed = _part(by_signs - by_ones * mask, whole) + _part(shifted - all_shifted * mask, whole)
    first = jnp.max(jnp.abs(by_ones), axis=0, keepdims=True)
    shape = by_ones / jnp.where(first > 0, first, 1)
    uneven = _part(shape - shape[:, :1], shape) + _part(all_shifted - all_shifted[:, :1], by_ones)
    finite = jnp.all(jnp.isfinite(by_signs)) & jnp.all(jnp.isfinite(up))
    # To a gradient that stays, and to one that alternates.
    turns = jnp.where(jnp.arange(len(by_ones)) % 2 == 0, 1, -1)[:, None].astype(by_ones.dtype)
    uphill = jnp.any(jnp.sum(by_ones, axis=0) > 0) | jnp.any(jnp.sum(turns * by_ones, axis=0) > 0)
    is_late = jnp.any((jnp.sum(by_ones, axis=0) < 0) & (jnp.sum(turns * by_ones, axis=0) > 0))
    fed_leaves = jnp.stack(is_fed) if is_fed else jnp.zeros(0, bool)
    return answer, finite, bent, crossed, uneven, uphill, is_late, fed_leaves


def _flat(tree: PyTree) -> Array:
    """The first coordinates of each leaf; they stand for the others."""
    leaves = jax.tree.leaves(tree)
    dtype = max((wide(leaf.dtype) for leaf in leaves), key=lambda d: d.itemsize)
    return jnp.concatenate([leaf.ravel()[:_SAMPLE].astype(dtype) for leaf in leaves])


def _part(difference: Array, whole: Array) -> Array:
    """The norm of one as a part of the other's."""
    size = jnp.linalg.norm(whole)
    return jnp.where(size > 0, jnp.linalg.norm(difference) / jnp.where(size > 0, size, 1), 0)
