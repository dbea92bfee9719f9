"""The compiled program of a critical learning rate: derivatives, and the search with them."""

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from equipoise._jax.traced import Traced
from equipoise._types import Array, PyTree
from equipoise.games._optimizers.anatomy import Anatomy
from equipoise.games._optimizers.held import Held, hold
from equipoise.games._optimizers.optimizer import Optimizer
from equipoise.games._rules.numerics import rounding
from equipoise.games._spectrum.arnoldi import arnoldi
from equipoise.games._spectrum.lanczos import Largest, inner, largest_eigenvalue, scaled
from equipoise.games._training.response import (
    Compressed,
    Linear,
    answers,
    compressed,
    flattened,
    linear_update,
    widened,
)

_Product: TypeAlias = Callable[..., PyTree]
_Counts: TypeAlias = tuple[Array | np.ndarray, ...]
_UNKNOWN = 2 * (np.asarray(-1, np.int32),)
_BATCH = 16  # products with the Hessian at once


class Search(NamedTuple):
    """How the largest eigenvalue is looked for; all static."""

    parts: Anatomy
    is_dense: bool
    subspace: int
    tolerance: float
    max_products: int


class _Found(NamedTuple):
    """What the compiled program says."""

    top: Largest
    converged: Array
    slope: Array
    sharpness: Array
    direction: PyTree[Array]
    update: Compressed
    counts: _Counts
    bend: Array
    finite: list[Array]
    moves: Array


@functools.partial(jax.jit, static_argnames="search")
def measured(
    loss: Traced, optimizer: Optimizer, params: PyTree, state: PyTree, search: Search
) -> _Found:
    value, gradient = jax.value_and_grad(loss)(params)
    held = hold(optimizer, search.parts, params, gradient, state)
    rest, linear = linear_update(held, params)
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in (value, *jax.tree.leaves(gradient))]
    bend = jax.lax.stop_gradient(_bend(held, rest, linear, gradient, params))
    unravel: _Product = _unchanged
    if search.is_dense:  # all in one leaf, which compiles faster
        linear = flattened(linear)
        params, unravel = ravel_pytree(params)
    still, example = jax.lax.stop_gradient(params), widened(params)

    def hessian(at: PyTree, v: PyTree) -> PyTree:
        # So that no loop keeps what only the parameters enter: all activations, twice.
        at, v = jax.lax.optimization_barrier((at, v))  # type: ignore[no-untyped-call]
        along = jax.tree.map(lambda x, y: y.astype(x.dtype), at, v)
        return widened(jax.jvp(jax.grad(lambda x: loss(unravel(x))), (at,), (along,))[1])

    if search.parts.is_diagonal:
        # Of a gradient of ones and of a position of ones.
        unit = jax.tree.map(lambda x: jnp.stack([jnp.ones_like(x), jnp.zeros_like(x)]), example)
        flipped = jax.tree.map(lambda x: x[::-1], unit)
        turned = jax.vmap(answers(linear, -1.0))(unit, flipped)
        gain, decay = (jax.tree.map(lambda x: x[i], turned) for i in (0, 1))  # noqa: B023
        root = jax.tree.map(_root, gain)
        moves = inner(gain, gain) > 0

        def apply(at: PyTree, root: PyTree, decay: PyTree, y: PyTree) -> PyTree:
            pushed = hessian(at, _times(root, y))
            return jax.tree.map(lambda r, h, d, x: r * h + d * x, root, pushed, decay, y)

        fixed = jax.lax.stop_gradient((still, root, decay))
        top, counts = _top(functools.partial(_stopped(apply), *fixed), example, search)
        # One product gives the slope, which differentiates, and the gradient along the direction.
        along = _times(root, top.vector)
        pushed = hessian(params, along)
        slope = inner(along, pushed) + inner(top.vector, _times(decay, top.vector))
        direction, bent = _unit(along), _unit(along, pushed)
    else:
        turned = answers(linear, -1.0)
        top = _arnoldi_top(_stopped(lambda v: turned(hessian(still, v), v)), example, search)
        counts = _UNKNOWN
        push = _scattered(example)
        moves = inner(*2 * [turned(push, linear.none)]) > 0
        direction, slope = top.vector, top.value
        bent = hessian(still, direction)
    direction, bent = jax.lax.stop_gradient((direction, bent))
    sharpness = inner(direction, bent)
    if any(search.parts.is_fed) and search.parts.is_diagonal:
        # Not before the search, which would keep it all along.
        ones = jax.tree.map(jnp.ones_like, example)
        stays = answers(linear, 1.0)(ones, linear.none)
        weight = jax.tree.map(
            lambda v, s: jnp.where(v == 0, 0, v / jnp.where(v == 0, 1, s)), direction, stays
        )
        sharpness = sharpness / inner(direction, weight)
    error = top.error / jnp.where(top.value == 0, 1, jnp.abs(top.value))
    return _Found(
        top._replace(error=error),
        error <= max(search.tolerance, 4 * rounding(error.dtype)),
        slope,
        jax.lax.stop_gradient(sharpness),
        widened(unravel(direction)),
        compressed(linear, direction, bent),
        counts,
        bend,
        finite,
        moves,
    )


def _stopped(function: _Product) -> _Product:
    """The function as a constant of differentiation, so that loops around it need no rule."""
    return lambda *operands: jax.lax.stop_gradient(function(*operands))


def _top(apply: _Product, example: PyTree, search: Search) -> tuple[Largest, _Counts]:
    """The largest eigenvalue, and how many are flat and negative where all are known."""
    if not search.is_dense:
        found = largest_eigenvalue(
            apply,
            _scattered(example),
            subspace=search.subspace,
            tolerance=search.tolerance,
            max_products=search.max_products,
        )
        return found, _UNKNOWN
    # Whole batches: what is left over would be compiled once more.
    n = example.size
    rows = jnp.eye(-(-n // _BATCH) * _BATCH, n, dtype=example.dtype)
    matrix = jax.lax.map(apply, rows, batch_size=_BATCH)[:n]
    values, vectors = jnp.linalg.eigh((matrix + matrix.T) / 2)
    slack = rounding(values.dtype, 0.75) * jnp.max(jnp.abs(values))
    counts = tuple(
        jnp.sum(chosen, dtype=jnp.int32) for chosen in (jnp.abs(values) <= slack, values < -slack)
    )
    error = n * rounding(values.dtype) * jnp.max(jnp.abs(values))
    return Largest(values[-1], vectors[:, -1], error, jnp.asarray(n)), counts


def _arnoldi_top(apply: _Product, example: PyTree, search: Search) -> Largest:
    """The eigenvalue of largest real part of a map that is not symmetric, where that is real."""
    flat, unravel = ravel_pytree(example)

    def search_from(shift: Array) -> tuple[Array, Array, Array, Array]:
        found = arnoldi(
            lambda v: ravel_pytree(apply(unravel(v)))[0] + shift * v,
            flat,
            jax.random.key(0),
            num=1,
            subspace=max(search.subspace, 8),
            tolerance=search.tolerance / 2,
            max_restarts=max(1, search.max_products // search.subspace),
        )
        value = found.values[0].real - shift
        return value, found.vectors[0].real, found.residuals[0], found.num_products

    first = search_from(jnp.zeros((), flat.dtype))
    # A negative one that is larger in modulus hides it; a shift by its size does not.
    value, vector, residual, num = jax.lax.cond(
        first[0] < 0, lambda: search_from(jnp.abs(first[0])), lambda: first
    )
    return Largest(value, _unit(unravel(vector)), residual, num)


def _bend(held: Held, rest: PyTree, linear: Linear, gradient: PyTree, params: PyTree) -> Array:
    """How far the update of the gradient is from its linearization, as a part of it."""
    there, _, _ = held.update(gradient, held.still(), held.counts(), params)
    expected, _ = linear.update(gradient, linear.still, linear.none)
    change = jax.tree.map(lambda a, b, e: widened(a) - widened(b) - e, there, rest, expected)
    size = jnp.sqrt(inner(expected, expected))
    return jnp.where(size > 0, jnp.sqrt(inner(change, change)) / jnp.where(size > 0, size, 1), 0)


def _scattered(example: PyTree) -> PyTree:
    """Numbers in [-1, 1) of no regularity: those of ``jax.random`` take long to compile."""

    def leaf(x: Array, seed: int) -> Array:
        bits = jax.lax.iota(jnp.uint32, x.size) + jnp.uint32(seed)
        for factor in (0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35):
            bits = (bits ^ (bits >> 15)) * jnp.uint32(factor)
        return (bits.astype(x.dtype) / 2.0**31 - 1).reshape(x.shape)

    leaves, structure = jax.tree.flatten(example)
    return jax.tree.unflatten(structure, [leaf(x, 7919 * i + 1) for i, x in enumerate(leaves)])


def _unchanged(tree: PyTree) -> PyTree:
    return tree


def _root(gain: Array) -> Array:
    return jnp.where(gain > 0, jnp.sqrt(jnp.where(gain > 0, gain, 1)), 0)


def _times(a: PyTree, b: PyTree) -> PyTree:
    return jax.tree.map(jnp.multiply, a, b)


def _unit(v: PyTree, w: PyTree | None = None) -> PyTree:
    """The vector, or another one, over the vector's length."""
    size = jnp.sqrt(inner(v, v))
    return scaled(1 / jnp.where(size > 0, size, 1), v if w is None else w)
