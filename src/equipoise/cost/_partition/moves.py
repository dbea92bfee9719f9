"""What brings an array from one division among devices to another, as XLA's partitioner does it.

Axes of the mesh that divide nothing yet cut the array, those that are wanted nowhere bring it
together, those that are wanted elsewhere pass from one axis of the array to another, and devices
that hold each other's parts exchange them. Where more than one of these is to be done the
partitioner chooses, by what the numbers are and sometimes badly: then the most it sends is counted.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from equipoise._jax.meshes.local import Spec
from equipoise._jax.programs import Size


class Move(NamedTuple):
    """A collective operation or a cut, along which axes, and how the array is divided then."""

    kind: str
    axes: tuple[str, ...]
    after: Spec
    is_bound: bool = False


def moves(spec: Spec, wanted: Spec, sizes: Mapping[str, Size]) -> Iterator[Move]:
    """The moves from one division to another, on a mesh of these sizes."""
    pairs = list(zip(spec, wanted, strict=True))
    if spec == wanted or all(_count(a, sizes) == _count(b, sizes) for a, b in pairs):
        yield from _exchange(spec, wanted)
        return
    at, to = ({axis: i for i, axes in enumerate(s) for axis in axes} for s in (spec, wanted))
    new = tuple(axis for axis in to if axis not in at)
    gone = tuple(axis for axis in at if axis not in to)
    passing = {(i, to[axis]) for axis, i in at.items() if to.get(axis, i) != i}
    if bool(new) + bool(gone) + len(passing) > 1:
        yield from _at_most(spec, wanted, new)
        return
    if new:
        cut = _joined(spec, wanted, new)
        yield Move("slice", new, cut)
        yield from _exchange(cut, wanted)
        return
    leave = gone or tuple(axis for _, j in passing for axis in wanted[j] if to[axis] != at[axis])
    stay = tuple(tuple(axis for axis in b if axis in a) for a, b in pairs)  # in the order wanted
    first = _joined(stay, spec, leave)  # what leaves divides an axis of the array last
    last = _joined(stay, wanted, leave)
    if last == wanted:
        yield from _exchange(spec, first)
    yield Move("all-gather" if gone else "all-to-all", leave, last)
    yield from _exchange(last, wanted)


def _joined(stay: Spec, spec: Spec, others: Sequence[str]) -> Spec:
    """The axes that stay before those others that a division has."""
    pairs = zip(stay, spec, strict=True)
    return tuple((*kept, *(axis for axis in others if axis in axes)) for kept, axes in pairs)


def _exchange(spec: Spec, wanted: Spec) -> Iterator[Move]:
    """Devices send each other their parts, which stay as large as they are."""
    changed = [(*a, *b) for a, b in zip(spec, wanted, strict=True) if a != b]
    if changed:
        yield Move("permute", tuple(dict.fromkeys(_all(changed))), wanted)


def _at_most(spec: Spec, wanted: Spec, new: tuple[str, ...]) -> Iterator[Move]:
    """Devices bring everything together, cut out their parts, and exchange these."""
    whole = tuple(() for _ in spec)
    yield Move("all-gather", _all(spec), whole, is_bound=True)
    yield Move("slice", _all(wanted), wanted, is_bound=True)
    yield Move("permute", (*_all(spec), *new), wanted, is_bound=True)


def _count(axes: Sequence[str], sizes: Mapping[str, Size]) -> Size:
    """How many devices there are along these axes."""
    return math.prod(sizes[axis] for axis in axes)  # type: ignore[misc]


def _all(spec: Sequence[Sequence[str]]) -> tuple[str, ...]:
    return tuple(axis for axes in spec for axis in axes)
