"""Bytes that a device sends in collective operations, by the usual algorithms.

With N devices and M bytes on each before the operation, a ring passes pieces on to a neighbor and
recursive doubling exchanges with partners at distances 1, 2, 4, ..., in ⌈log₂ N⌉ rounds:

==============  ================  ===================
operation       ring              recursive doubling
==============  ================  ===================
all-reduce      2 M (N − 1)/N     M ⌈log₂ N⌉
all-gather      M (N − 1)         M (N − 1)
reduce-scatter  M (N − 1)/N       M (N − 1)/N
all-to-all      M (N − 1)/N       M ⌈log₂ N⌉/2
permute         M                 M
==============  ================  ===================
"""

import math
from collections.abc import Mapping

from equipoise._jax.meshes.collectives import Collective
from equipoise._jax.programs import Size
from equipoise.cost._expression.expression import ONE, ZERO, Expression, apply
from equipoise.cost._program.sizes import size_of


def sent(
    found: Collective, size: Expression, mesh: Mapping[str, Size]
) -> tuple[Expression, Expression]:
    """Bytes that a device sends of an operand of this size: along a ring, and by doubling."""
    along = (size_of(mesh.get(axis, 1)) for axis in found.axes)
    devices = math.prod(along, start=ONE) if found.group is None else ONE * found.group
    if devices == 1:
        return ZERO, ZERO
    others, rounds = (devices - ONE) / devices, apply("ceil_log2", devices)
    match found.kind:
        case "all-reduce":
            return 2 * size * others, size * rounds
        case "all-gather":
            return size * (devices - 1), size * (devices - 1)
        case "reduce-scatter":
            return size * others, size * others
        case "all-to-all":
            return size * others, size * rounds / 2
        case "permute":
            return size, size
    # The partitioner chooses. At worst each device sends its part of the array to all others.
    return size * others, size * others
