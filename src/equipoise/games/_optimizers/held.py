"""An optimizer's update with its slow memory held, as a linear map near the parameters."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._types import Array, PyTree, record, static_field
from equipoise.games._optimizers.anatomy import Anatomy
from equipoise.games._optimizers.leaves import NEARLY_ZERO, is_float, joined, lifted, split
from equipoise.games._optimizers.optimizer import Optimizer

# A step count that has counted nothing stands for this: bias corrections and schedules at their
# limits, far from overflow.
_COUNT = 2**30


@record
class Held:
    """An optimizer whose slow memory stays where it is.

    Attributes:
        optimizer: The optimizer.
        state: Its state: moving leaves are 0, slow ones such that an update by no gradient leads
            to the values that are held.
        parts: Which leaves move.
    """

    optimizer: Optimizer
    state: PyTree
    parts: Anatomy = static_field()

    def still(self) -> list[Array]:
        """The moving memory at rest."""
        return split(self.state, self.parts.moves)[0]

    def counts(self) -> list[Array]:
        """The whole numbers among what does not move; they turn within a period."""
        return [x for x in split(self.state, self.parts.moves)[1] if not is_float(x)]

    def update(
        self, gradient: PyTree, moving: list[Array], counts: list[Array], params: PyTree
    ) -> tuple[PyTree, list[Array], list[Array]]:
        """The update, the moving memory and the counts after it; the gradient counts from 0."""
        turning = iter(counts)
        others = [
            slow if is_float(slow) else next(turning)
            for slow in split(self.state, self.parts.moves)[1]
        ]
        state = joined(moving, others, self.parts.moves, self.state)
        gradient = jax.tree.map(lambda g: g + jnp.asarray(NEARLY_ZERO, g.dtype), gradient)
        update, later = self.optimizer.update(gradient, state, params)
        moved, others = split(later, self.parts.moves)
        return update, moved, [x for x in others if not is_float(x)]


def hold(
    optimizer: Optimizer, parts: Anatomy, params: PyTree, gradient: PyTree, state: PyTree | None
) -> Held:
    """The optimizer held at a state; by default at that of one that has seen the gradient for ever.

    The fixed point under a constant gradient, and the state from which an update leads to given
    slow values, are one step of Newton's method each: slow memory is affine in itself, coordinate
    by coordinate. A memory that only grows takes the gradient in once.
    """
    nothing = jax.tree.map(lambda x: jnp.full_like(x, NEARLY_ZERO), params)
    is_new = state is None
    state = optimizer.init(params) if state is None else state
    slow = parts.is_fed
    state = _mapped(jnp.zeros_like, state, parts.moves)
    state = _mapped(lifted, state, slow)

    def after(gradient: PyTree) -> tuple[list[Array], list[Array]]:
        """Slow memory after a period, and its derivative by itself."""
        held, rest = split(state, slow)

        def follow(held: list[Array]) -> list[Array]:
            later = _period(optimizer, parts, gradient, joined(held, rest, slow, state), params)
            return split(later, slow)[0]

        return jax.jvp(follow, (held,), ([jnp.ones_like(x) for x in held],))

    def replaced(held: list[Array]) -> PyTree:
        return joined(held, split(state, slow)[1], slow, state)

    if is_new:

        def rested(x: Array, y: Array, slope: Array) -> Array:
            grows = jnp.abs(1 - slope) <= 1e-6
            fixed = x + (y - x) / jnp.where(grows, 1, 1 - slope)
            return jnp.where(grows | ~(fixed * y >= 0), y, fixed)

        state = replaced(list(map(rested, split(state, slow)[0], *after(gradient))))
        state = _mapped(lifted, state, slow)
    state = _counted(optimizer, parts, nothing, state, params)

    def before(x: Array, y: Array, slope: Array) -> Array:
        known = jnp.isfinite(slope) & (slope != 0) & jnp.isfinite(y)
        return jnp.where(known, x + (x - y) / jnp.where(known, slope, 1), x)

    return Held(
        optimizer, replaced(list(map(before, split(state, slow)[0], *after(nothing)))), parts
    )


def _counted(
    optimizer: Optimizer, parts: Anatomy, nothing: PyTree, state: PyTree, params: PyTree
) -> PyTree:
    """The state with counts that grow one period back, and at their limit if nothing is counted.

    Other flags stand as after a period: the first step is behind.
    """
    later = _period(optimizer, parts, nothing, state, params)

    def leaf(now: Array, then: Array) -> Array:
        if is_float(now):
            return now
        if not jnp.issubdtype(now.dtype, jnp.integer):
            return then
        limit = jnp.asarray(min(_COUNT, np.iinfo(now.dtype).max // 2), now.dtype)
        return jnp.where(then == now, now, jnp.where(now == 0, limit, now - (then - now)))

    return jax.tree.map(leaf, state, later)


def _period(
    optimizer: Optimizer, parts: Anatomy, gradient: PyTree, state: PyTree, params: PyTree
) -> PyTree:
    """The state after a period of updates by one gradient, at parameters that stay."""
    for _ in range(parts.period):
        state = optimizer.update(gradient, state, params)[1]
    return state


def _mapped(function: Callable[[Array], Array], state: PyTree, chosen: Sequence[bool]) -> PyTree:
    leaves, structure = jax.tree.flatten(state)
    pairs = zip(leaves, chosen, strict=True)
    return jax.tree.unflatten(structure, [function(x) if c else x for x, c in pairs])
