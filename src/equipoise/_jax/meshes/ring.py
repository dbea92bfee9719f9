"""Sums over devices of a ring: some arrays stay, others travel, in one loop of any order.

``ring_sum`` runs a body once for each device, with the arrays that stay here and those that have
come from there, and adds up what it returns: outputs that stay here, and outputs that travel on
with the arrays that they belong to, until both are home again. Its tangent is the sum of the body's
tangents and its transpose the sum of the body's transposes, around the same ring; so a derivative
of any order is one loop that receives again what it needs and keeps nothing that was received.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from equipoise._jax.evaluation import as_function, with_operands
from equipoise._jax.primitives import bound, is_linear, is_zero, primitive
from equipoise._jax.programs import ClosedProgram, constants
from equipoise._jax.varying import alike
from equipoise._types import Array, PyTree

_Body = Callable[..., Sequence[Array]]


class Ring(NamedTuple):
    """An axis of the mesh, and how many devices lie along it."""

    axis_name: str
    devices: int

    def ahead(self, arrays: PyTree) -> PyTree:
        """The arrays of the device before, and so each device's those of the next."""
        hops = [(device, (device + 1) % self.devices) for device in range(self.devices)]
        return lax.ppermute(arrays, self.axis_name, hops)  # type: ignore[no-untyped-call]

    def source(self, me: Array, hops: Array) -> Array:
        """Where what is here after so many hops is from."""
        return (me - hops) % np.int32(self.devices)


class _Layout(NamedTuple):
    """What is static: which operands stay, and the types of the outputs that stay and travel."""

    ring: Ring
    stay: int
    outputs: tuple[jax.ShapeDtypeStruct, ...]
    outputs_that_stay: int


def ring_sum(
    body: Callable[[Array, PyTree, PyTree], PyTree],
    ring: Ring,
    me: Array,
    stay: PyTree,
    travel: PyTree,
) -> PyTree:
    """The sum of ``body(source, stay, travel)`` over all sources; what it returns stays.

    All arrays vary over the devices of the ring.
    """
    arrays, structure = jax.tree.flatten((stay, travel))
    shapes = jax.eval_shape(body, me, stay, travel)
    outputs, found = jax.tree.flatten(shapes)

    def flat(source: Array, *xs: Array) -> Sequence[Array]:
        return jax.tree.leaves(body(source, *jax.tree.unflatten(structure, xs)))

    layout = _Layout(ring, len(jax.tree.leaves(stay)), _shapes(outputs), len(outputs))
    return jax.tree.unflatten(found, _summed(flat, me, arrays, layout))


def _summed(body: _Body, me: Array, arrays: Sequence[Array], layout: _Layout) -> list[Array]:
    program = jax.make_jaxpr(lambda *xs: list(body(*xs)))(*map(_type, (me, *arrays)))
    # Arrays that the body captured are operands like others, and stay.
    captured = constants(program)
    layout = layout._replace(stay=layout.stay + len(captured))
    whole = with_operands(program, after=1)
    return bound(_ring_sum_p, me, *captured, *arrays, body=whole, layout=layout)


def _type(x: PyTree) -> PyTree:
    return x.aval if is_linear(x) else jax.typeof(x)


def _shapes(arrays: Sequence[PyTree], *lead: int) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Their shapes, after further axes, and dtypes."""
    shape: Callable[..., jax.ShapeDtypeStruct] = jax.ShapeDtypeStruct  # it is left untyped
    return tuple(shape((*lead, *x.shape), x.dtype) for x in arrays)


def _zeros(operands: Sequence[Array], layout: _Layout) -> list[Array]:
    """Totals before anything was added, which vary as the operands do."""
    zeros = [jnp.zeros(x.shape, x.dtype) for x in layout.outputs]
    return alike([*zeros, *operands])[: len(zeros)]


def _evaluate(me: Array, *arrays: Array, body: ClosedProgram, layout: _Layout) -> list[Array]:
    ring, first = layout.ring, layout.outputs_that_stay
    here, moving, totals = (
        arrays[: layout.stay],
        arrays[layout.stay :],
        _zeros((me, *arrays), layout),
    )

    def step(hops: Array, carry: tuple[list[Array], list[Array]]) -> tuple[PyTree, PyTree]:
        moving, totals = carry
        source = ring.source(me, hops)
        parts = as_function(body)(source, *here, *moving)
        totals = [total + part for total, part in zip(totals, parts, strict=True)]
        moving, returning = ring.ahead((moving, totals[first:]))
        return moving, [*totals[:first], *returning]

    count = np.int32(ring.devices)
    return lax.fori_loop(np.int32(0), count, step, (list(moving), totals))[1]


def _abstract(*operands: PyTree, body: ClosedProgram, layout: _Layout) -> Sequence[PyTree]:
    del body
    return jax.make_jaxpr(lambda *xs: _zeros(xs, layout))(*operands).out_avals


def _jvp(
    primals: Sequence[Array], tangents: Sequence[PyTree], *, body: ClosedProgram, layout: _Layout
) -> tuple[list[Array], list[Array]]:
    me, *arrays = primals
    out = bound(_ring_sum_p, *primals, body=body, layout=layout)
    moving = [i for i, t in enumerate(tangents[1:]) if not is_zero(t)]
    run, count = as_function(body), len(arrays)
    order = _in_order([i < layout.stay for i in (*range(count), *moving)])

    def tangent(source: Array, *given: Array) -> Sequence[Array]:
        values = dict(zip(order, given, strict=True))
        fixed, along = (
            [values[i] for i in part] for part in (range(count), range(count, len(order)))
        )

        def moved(*xs: Array) -> Sequence[Array]:
            known = dict(zip(moving, xs, strict=True))
            return run(source, *(known.get(i, x) for i, x in enumerate(fixed)))

        return jax.jvp(moved, tuple(fixed[i] for i in moving), tuple(along))[1]

    both = [*arrays, *(tangents[1 + i] for i in moving)]
    there = layout.stay + sum(i < layout.stay for i in moving)
    return out, _summed(tangent, me, [both[i] for i in order], layout._replace(stay=there))


def _transpose(
    cotangents: Sequence[PyTree], me: Array, *arrays: PyTree, body: ClosedProgram, layout: _Layout
) -> list[Array | None]:
    linear = [i for i, x in enumerate(arrays) if is_linear(x)]
    known = [i for i in range(len(arrays)) if i not in linear]
    given = [i for i, ct in enumerate(cotangents) if not is_zero(ct)]
    run, types = as_function(body), [_type(arrays[i]) for i in linear]
    stays = [*(i < layout.stay for i in known), *(i < layout.outputs_that_stay for i in given)]
    order = _in_order(stays)

    def transposed(source: Array, *xs: Array) -> Sequence[Array]:
        operands = dict(zip(order, xs, strict=True))
        values = {i: operands[n] for n, i in enumerate(known)}

        def forward(*directions: Array) -> list[Array]:
            full = values | dict(zip(linear, directions, strict=True))
            out = run(source, *(full[i] for i in range(len(arrays))))
            return [out[i] for i in given]

        back = jax.linear_transpose(forward, *types)
        return back([operands[n] for n in range(len(known), len(order))])

    both = [*(arrays[i] for i in known), *(cotangents[i] for i in given)]
    # Operands that stay come before those that travel, and so do their cotangents.
    here = sum(i < layout.stay for i in linear)
    into = _Layout(layout.ring, sum(stays), _shapes(types), here)
    found = _summed(transposed, me, [both[n] for n in order], into)
    sums = dict(zip(linear, found, strict=True))
    return [None, *(sums.get(i) for i in range(len(arrays)))]


def _in_order(stays: Sequence[bool]) -> list[int]:
    """The places of what stays, and then of what travels."""
    return sorted(range(len(stays)), key=lambda i: not stays[i])


def _batch(
    args: Sequence[Array], dims: Sequence[int | None], *, body: ClosedProgram, layout: _Layout
) -> tuple[list[Array], list[int]]:
    me, *arrays = args
    size = next(x.shape[d] for x, d in zip(args, dims, strict=True) if d is not None)
    along = [None if d is None else 0 for d in dims[1:]]
    run = jax.vmap(as_function(body), in_axes=(None, *along), axis_size=size)
    first = [
        x if d is None else jnp.moveaxis(x, d, 0) for x, d in zip(arrays, dims[1:], strict=True)
    ]
    outputs = _shapes(layout.outputs, size)
    out = _summed(run, me, first, layout._replace(outputs=outputs))
    return out, [0] * len(out)


_ring_sum_p = primitive(
    "equipoise_ring_sum", evaluate=_evaluate, shapes=_abstract, jvp=_jvp, transpose=_transpose,
    batch=_batch, static=("body", "layout"),
)  # fmt: skip
