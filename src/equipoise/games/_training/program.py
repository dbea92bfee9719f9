"""The compiled program of a critical learning rate: derivatives, and the search with them."""

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
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
    answers,
    compressed,
    linear_update,
    widened,
)

_Product: TypeAlias = Callable[..., PyTree]


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
    slope: Array
    sharpness: Array
    direction: PyTree[Array]
    update: Compressed
    counts: Array
    bend: Array
    finite: list[Array]
    moves: Array


@functools.partial(jax.jit, static_argnames="search")
def measured(
    loss: Traced, optimizer: Optimizer, params: PyTree, state: PyTree, search: Search
) -> _Found:
    value, gradient = jax.value_and_grad(loss)(params)
    held = hold(optimizer, search.parts, params, gradient, state)
    linear = linear_update(held, params)

    def hessian(at: PyTree, v: PyTree) -> PyTree:
        # So that no loop keeps what only the parameters enter: all activations, twice.
        at, v = jax.lax.optimization_barrier((at, v))  # type: ignore[no-untyped-call]
        along = jax.tree.map(lambda x, y: y.astype(x.dtype), at, v)
        return widened(jax.jvp(jax.grad(loss), (at,), (along,))[1])

    turned = answers(linear, held, params, -1.0)
    still = jax.lax.stop_gradient(params)
    example = widened(params)
    ones, none = jax.tree.map(jnp.ones_like, example), jax.tree.map(jnp.zeros_like, example)
    if search.parts.is_diagonal:
        gain, decay = turned(ones, none), turned(none, ones)
        root = jax.tree.map(_root, gain)

        def apply(at: PyTree, root: PyTree, decay: PyTree, y: PyTree) -> PyTree:
            pushed = hessian(at, _times(root, y))
            return jax.tree.map(lambda r, h, d, x: r * h + d * x, root, pushed, decay, y)

        fixed = jax.lax.stop_gradient((still, root, decay))
        top, counts = _top(functools.partial(_stopped(apply), *fixed), example, search)
        # One product gives the slope, which differentiates, and the gradient along the direction.
        along = _times(root, top.vector)
        pushed = hessian(params, along)
        slope = inner(along, pushed) + inner(top.vector, _times(decay, top.vector))
        size = jnp.sqrt(inner(along, along))
        shrink = 1 / jnp.where(size > 0, size, 1)
        direction, bent = scaled(shrink, along), scaled(shrink, pushed)
    else:
        top = _arnoldi_top(_stopped(lambda v: turned(hessian(still, v), v)), example, search)
        counts = jnp.full(2, -1)
        direction, slope = top.vector, top.value
        bent = hessian(still, direction)
    direction, bent = jax.lax.stop_gradient((direction, bent))
    weight = inner(direction, direction)
    if any(search.parts.is_fed) and search.parts.is_diagonal:
        steady = answers(linear, held, params, 1.0)(ones, none)
        used = jax.tree.map(
            lambda v, s: jnp.where(v == 0, 0, v / jnp.where(v == 0, 1, s)), direction, steady
        )
        weight = inner(direction, used)
    update = compressed(linear, held, params, direction, bent)
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in (value, *jax.tree.leaves(gradient))]
    return _Found(
        top._replace(error=top.error / jnp.where(top.value == 0, 1, jnp.abs(top.value))),
        slope,
        jax.lax.stop_gradient(inner(direction, bent) / weight),
        direction,
        update,
        counts.astype(jnp.int32),
        jax.lax.stop_gradient(_bend(held, linear, gradient, params)),
        finite,
        inner(*[turned(_random(example), none)] * 2) > 0,
    )


def _stopped(function: _Product) -> _Product:
    """The function as a constant of differentiation, so that loops around it need no rule."""
    return lambda *operands: jax.lax.stop_gradient(function(*operands))


def _top(apply: _Product, example: PyTree, search: Search) -> tuple[Largest, Array]:
    """The largest eigenvalue, and how many are flat and negative where all are known."""
    if not search.is_dense:
        found = largest_eigenvalue(
            apply,
            _random(example),
            subspace=search.subspace,
            tolerance=search.tolerance,
            max_products=search.max_products,
        )
        return found, jnp.full(2, -1)
    flat, unravel = ravel_pytree(example)
    rows = jnp.eye(flat.size, dtype=flat.dtype)
    matrix = jax.lax.map(lambda row: ravel_pytree(apply(unravel(row)))[0], rows, batch_size=16)
    values, vectors = jnp.linalg.eigh((matrix + matrix.T) / 2)
    slack = rounding(values.dtype, 0.75) * jnp.max(jnp.abs(values))
    counts = jnp.stack([jnp.sum(jnp.abs(values) <= slack), jnp.sum(values < -slack)])
    error = flat.size * rounding(values.dtype) * jnp.max(jnp.abs(values))
    vector = unravel(vectors[:, -1])
    return Largest(values[-1], vector, error, jnp.asarray(flat.size)), counts


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


def _bend(held: Held, linear: Callable[..., PyTree], gradient: PyTree, params: PyTree) -> Array:
    """How far the update of the gradient is from its linearization, as a part of it."""
    none = jax.tree.map(jnp.zeros_like, gradient)
    there, here = (held.update(g, held.still(), held.counts(), params)[0] for g in (gradient, none))
    still = [jnp.zeros_like(f) for f in held.still()]
    expected, _ = linear(gradient, still, none)
    change = jax.tree.map(lambda a, b, e: widened(a) - widened(b) - e, there, here, expected)
    size = jnp.sqrt(inner(expected, expected))
    return jnp.where(size > 0, jnp.sqrt(inner(change, change)) / jnp.where(size > 0, size, 1), 0)


def _random(example: PyTree) -> PyTree:
    keys = jax.random.split(jax.random.key(0), len(jax.tree.leaves(example)))
    keys = jax.tree.unflatten(jax.tree.structure(example), list(keys))
    return jax.tree.map(lambda x, k: jax.random.normal(k, x.shape, x.dtype), example, keys)


def _root(gain: Array) -> Array:
    return jnp.where(gain > 0, jnp.sqrt(jnp.where(gain > 0, gain, 1)), 0)


def _times(a: PyTree, b: PyTree) -> PyTree:
    return jax.tree.map(jnp.multiply, a, b)


def _unit(v: PyTree) -> PyTree:
    size = jnp.sqrt(inner(v, v))
    return scaled(1 / jnp.where(size > 0, size, 1), v)
