"""What the devices of a mesh send each other."""

from collections.abc import Sequence

from equipoise._types import result, static_field
from equipoise.cost._count.place import Place
from equipoise.cost._count.work import Work
from equipoise.cost._expression.expression import ZERO, Expression


@result
class Communication:
    """Bytes that a device sends in all collective operations of one kind along some axes.

    Attributes:
        kind: ``"all-reduce"``, ``"all-gather"``, ``"reduce-scatter"``, ``"all-to-all"``,
            ``"permute"``; or ``"resharding"``, where the partitioner decides what is sent and the
            bytes are those at most.
        axes: The axes of the mesh along which devices take part.
        ring_bytes: Bytes that a device sends where pieces pass along a ring.
        tree_bytes: The same by recursive doubling, in as few rounds as can be.
    """

    kind: str = static_field()
    axes: tuple[str, ...] = static_field()
    ring_bytes: Expression = static_field()
    tree_bytes: Expression = static_field()


def communication(parts: Sequence[tuple[Place, Work]]) -> tuple[Communication, ...]:
    """The collectives among the parts of a cost, summed over equal kinds and axes."""
    sums: dict[tuple[str, tuple[str, ...]], tuple[Expression, Expression]] = {}
    for place, work in parts:
        if place.collective is not None:
            ring, tree = sums.get(place.collective, (ZERO, ZERO))
            sums[place.collective] = (ring + work.sent, tree + work.sent_by_doubling)
    return tuple(
        Communication(kind=kind, axes=axes, ring_bytes=ring, tree_bytes=tree)
        for (kind, axes), (ring, tree) in sums.items()
    )
