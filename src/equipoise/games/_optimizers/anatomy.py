"""What moves in an optimizer's state, found by pushing the optimizer itself.

A leaf of the state moves with the players if its derivative by a gradient, by the parameters or by
other such leaves is not zero where the gradient is: momentum does, a second moment is even in the
gradient and does not. What does not move is slow and can be held: second moments, step counts,
hyperparameters. All is learned from made-up values of the right shapes, so that it is known while
tracing.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from equipoise._check import is_traced, type_error, value_error
from equipoise._jax.tracing.brief import outside_of_traces
from equipoise._types import PyTree
from equipoise.games._optimizers.leaves import is_float
from equipoise.games._optimizers.optimizer import Optimizer, Shapes
from equipoise.games._optimizers.pushes import (
    PUSH,
    Answers,
    Static,
    answers_to_pushes,
    count_history,
    largest_tangents,
)
from equipoise.games._rules.numerics import rounding

_LEAST_TANGENT = 1e-9  # of the gradient's: above it is memory, below is a square of `NEARLY_ZERO`
_LARGEST_BEND = 0.1  # between a finite push and the derivative, as a part of the latter
_NEAR = 1e-3  # parts of an answer below it are taken for none


class Anatomy(NamedTuple):
    """What an optimizer is made of, all of it static.

    Attributes:
        moves: Whether a leaf of the state moves with the players, one entry per leaf.
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
    static = Static(shapes)
    period = _period(_evaluated(count_history, optimizer, static))
    if frozen is None:
        sizes = _evaluated(largest_tangents, optimizer, static, 2 * period + 2)
        moves = tuple(bool(size > _LEAST_TANGENT) for size in sizes)
    else:
        flags = jax.tree.map(lambda f, sub: jax.tree.map(lambda _: f, sub), frozen, shapes.state)
        leaves = zip(jax.tree.leaves(flags), jax.tree.leaves(shapes.state), strict=True)
        moves = tuple(not held and is_float(leaf) for held, leaf in leaves)
    said = _evaluated(answers_to_pushes, optimizer, static, moves, period)
    with np.errstate(all="ignore"):  # what is not finite is judged as such
        answer, bent = _proportion(said)
        is_diagonal, is_common, is_late = _ways(said)
    advice = "Its linearization says nothing of what a push does."
    if not (np.isfinite(said.by_signs).all() and np.isfinite(said.up).all()):
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
    return Anatomy(moves, period, tuple(map(bool, said.is_fed)), is_diagonal, is_common, is_late)


def _proportion(said: Answers) -> tuple[float, float]:
    """How large the answer to a push is, and how much of it the derivative misses."""
    size, change = _norm(said.by_signs), said.up - said.down
    noise = 1e3 * rounding(said.up.dtype) * (_norm(said.up) + _norm(said.down))
    missed = max(_norm(change - 2 * PUSH * said.by_signs) - noise, 0)
    return max(_norm(change) / (2 * PUSH), size), missed / max(2 * PUSH * size, 1e-30)


def _ways(said: Answers) -> tuple[bool, bool, bool]:
    """Whether the optimizer is diagonal, common to all coordinates, and late."""
    by_ones, all_shifted = said.by_ones, said.all_shifted
    whole = np.maximum(abs(by_ones), abs(said.by_signs))
    crossed = _part(said.by_signs - by_ones * said.signs, whole)
    crossed += _part(said.shifted - all_shifted * said.signs, whole)
    first = abs(by_ones).max(axis=0)
    shape = by_ones / np.where(first > 0, first, 1)
    uneven = _part(shape - shape[:, :1], shape) + _part(all_shifted - all_shifted[:, :1], by_ones)
    # To a gradient that stays, and to one that alternates.
    stays, turns = by_ones.sum(axis=0), by_ones[::2].sum(axis=0) - by_ones[1::2].sum(axis=0)
    is_diagonal = crossed < _NEAR and not ((stays > 0) | (turns > 0)).any()
    return is_diagonal, is_diagonal and uneven < _NEAR, bool(((stays < 0) & (turns > 0)).any())


def _norm(array: PyTree) -> float:
    return float(np.linalg.norm(array))


def _part(difference: PyTree, whole: PyTree) -> float:
    """The norm of one as a part of the other's."""
    size = _norm(whole)
    return _norm(difference) / size if size > 0 else 0.0


def _evaluated(function: Callable[..., PyTree], *args: Any) -> PyTree:
    """What a compiled function says, also while another program is being traced."""
    with outside_of_traces():
        return jax.tree.map(np.asarray, function(*args))


def _period(history: np.ndarray) -> int:
    """The least number of updates after which all counts that come back are back."""
    periods = [1]
    for count in history.T:
        back = np.flatnonzero(count[1:] == count[0])
        changes = np.flatnonzero(count[1:] != count[0])
        if changes.size and back.size and back[-1] > changes[0]:
            periods.append(int(back[back > changes[0]][0]) + 1)
    return math.lcm(*periods)
