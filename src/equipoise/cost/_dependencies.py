"""Which output positions read which input positions: from the program, confirmed by derivatives."""

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._check import at
from equipoise._jax.programs import Program, primitive_names
from equipoise._types import Array, Bool, result, static_field
from equipoise.cost._kinds import Pattern
from equipoise.cost._reads.positions import Layer, Point, reached, traced
from equipoise.cost._reads.reach import NONE


@result
class Dependencies:
    """Which output positions can depend on which input positions, twice over.

    Attributes:
        structural: Entry (i, j) is true if the program has a way from input j to output i.
        measured: Entry (i, j) is true if a derivative of output i by input j was not zero.
        kind: A :class:`Pattern`: ``"identity"``, ``"lower triangular"``, ``"upper triangular"``,
            ``"all-to-all"``, ``"banded"`` (all of a range of offsets i − j), ``"dilated"`` (a set
            of offsets that is no range), ``"none"`` or ``"other"``.
        offsets: The offsets i − j that occur, in order.
        confirmed: Whether both matrices are equal.
        assumptions: What the analysis took for granted about operations that it does not know.
    """

    structural: Bool[Array, "m n"]
    measured: Bool[Array, "m n"]
    kind: Pattern = static_field()
    offsets: tuple[int, ...] = static_field()
    confirmed: bool = static_field()
    assumptions: tuple[str, ...] = static_field(default=())

    def __str__(self) -> str:
        """The kind, whether derivatives agree, and a picture of small patterns."""
        lines = [f"Dependencies: {self.kind}", f"  confirmed by derivatives: {self.confirmed}"]
        lines += [f"  assumed: {note}" for note in self.assumptions]
        known = not isinstance(self.structural, jax.core.Tracer) and self.structural.ndim == 2
        if known and max(self.structural.shape) <= 32:
            lines += [
                "  " + "".join(".#"[int(e)] for e in row) for row in np.asarray(self.structural)
            ]
        return "\n".join(lines)


@at("cost.dependencies")
def dependencies(fn: Layer, x: Point, axis: int = 0) -> Dependencies:
    r"""Which output positions along an axis can read which input positions.

    .. math::

        D_{ij} = 1 \iff \text{some way in the program leads from } x_j \text{ to } y_i,
        \qquad \frac{\partial y_i}{\partial x_j} \ne 0 \implies D_{ij} = 1

    The program is run on abstract arrays: whatever does not depend on x (positions, masks, weights
    that ``fn`` closes over) is computed, so that a masked score, whose exponential is exactly zero,
    or a product with a known zero, is no way. Loops are unrolled. Derivatives at three points then
    have to agree.

    Args:
        fn: The function, of one array; weights are closed over. The pattern is that of these
            weights: one that is exactly zero cuts the way.
        x: An array or :class:`jax.ShapeDtypeStruct` of floats, which gives the sizes; small ones
            do, as the pattern is that of any size. At most 256 positions.
        axis: The axis of positions, in x and in the result.

    Returns:
        :class:`Dependencies`, with one row per output position. ``structural`` is exact for
        elementwise operations, matrix products, moves, masks, loops with known lengths and
        branches with known predicates; an operation outside of these reads everything and is named
        in ``assumptions``. A mask must lie below −10⁸ to count as one. ``measured`` is below
        ``structural`` where a derivative vanishes everywhere, as that of ``jnp.sign`` does.

    Raises:
        TypeError: If ``x`` holds no floats, is traced, or ``fn`` does not return one array.
        ValueError: If ``axis`` is not an axis of ``x`` and of the result, or too long.

    Cost: n times the work of ``fn`` in NumPy, and n derivatives; seconds at n = 16.

    Examples:
        >>> layer = layers.linear_attention(4, is_causal=True)
        >>> params = layer.init(jax.random.key(0))
        >>> found = cost.dependencies(lambda x: layer.apply(params, x), jnp.ones((4, 4)))
        >>> print(found)
        Dependencies: lower triangular
          confirmed by derivatives: True
          #...
          ##..
          ###.
          ####

    References:
        :cite:t:`griewank2008`, chapter 7, on sparsity from the program.
    """
    program, point, axis = traced(fn, x, axis)
    steps, notes = reached(program, point, axis, counts=False)
    structural = steps < NONE
    measured = _measured(fn, program, point, axis)
    return Dependencies(
        structural=jnp.asarray(structural),
        measured=jnp.asarray(measured),
        kind=_kind(structural),
        offsets=_offsets(structural),
        confirmed=bool((structural == measured).all()),
        assumptions=notes,
    )


def _measured(fn: Layer, program: Program, x: Array, axis: int) -> np.ndarray:
    """Where directional derivatives in random directions are not zero, at three points."""
    rng = np.random.default_rng(1)
    n, y = x.shape[axis], jax.eval_shape(fn, x)

    def directions(shape: tuple[int, ...]) -> Array:
        """One array a position, zero at all others."""
        values = rng.uniform(0.5, 1.5, shape) * rng.choice([-1.0, 1.0], shape)
        count = shape[axis]
        mask = np.eye(count).reshape(count, *(count if i == axis else 1 for i in range(len(shape))))
        return jnp.asarray(mask * values)

    # A loop without a known length has no reverse mode, a custom_vjp has no forward mode.
    reverse = "custom_vjp_call" in primitive_names(program)

    @jax.jit
    def derivatives(point: Array) -> Array:
        if reverse:
            return jax.vmap(jax.vjp(fn, point)[1])(directions(y.shape).astype(y.dtype))[0]
        tangents = directions(x.shape).astype(x.dtype)
        return jax.vmap(lambda tangent: jax.jvp(fn, (point,), (tangent,))[1])(tangents)

    found = np.zeros((y.shape[axis], n), bool)
    for scale in (0.0, 0.5, 1.0):
        point = x + jnp.asarray(scale * rng.uniform(size=x.shape), x.dtype)
        entries = np.asarray(derivatives(point) != 0)
        block = entries.any(axis=tuple(i for i in range(1, entries.ndim) if i != axis + 1))
        found |= block if reverse else block.T
    return found


def _offsets(pattern: np.ndarray) -> tuple[int, ...]:
    i, j = np.nonzero(pattern)
    return tuple(int(offset) for offset in np.unique(i - j))


def _kind(pattern: np.ndarray) -> Pattern:
    rows, columns = pattern.shape
    offsets = _offsets(pattern)
    if not offsets:
        return Pattern.NONE
    if pattern.all():
        return Pattern.ALL_TO_ALL if pattern.size > 1 else Pattern.IDENTITY
    difference = np.subtract.outer(np.arange(rows), np.arange(columns))
    if rows != columns or not (np.isin(difference, offsets) == pattern).all():
        return Pattern.OTHER
    first, last = offsets[0], offsets[-1]
    if len(offsets) != last - first + 1:
        return Pattern.DILATED
    named = {
        (0, 0): Pattern.IDENTITY,
        (0, rows - 1): Pattern.LOWER_TRIANGULAR,
        (1 - rows, 0): Pattern.UPPER_TRIANGULAR,
    }
    return named.get((first, last), Pattern.BANDED)
