"""On which devices of a mesh a ``shard_map`` runs its program."""

import functools
import operator

from equipoise._jax.programs import Equation, Size

_MAPPED = ("newly_manual_axes", "manual_axes")  # as newer and older versions call them


def mapped_axes(equation: Equation) -> frozenset[str]:
    """The axes of the mesh along which a ``shard_map`` runs its program on each device."""
    (found,) = (equation.params[name] for name in _MAPPED if name in equation.params)
    return frozenset(found)


def num_devices(equation: Equation) -> Size:
    """On how many devices a ``shard_map`` runs its program."""
    sizes = equation.params["mesh"].shape
    return functools.reduce(operator.mul, (sizes[axis] for axis in mapped_axes(equation)), 1)
