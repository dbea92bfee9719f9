"""What a program does: operations by kind, and bytes moved. Adds up along the program."""

from collections.abc import Iterable
from typing import NamedTuple

from equipoise.cost._expression.expression import ZERO, Expression
from equipoise.cost._expression.extremes import largest


class Work(NamedTuple):
    """Operations in all and by kind, bytes read and written, and bytes that a device sends."""

    flops: Expression = ZERO
    matmul: Expression = ZERO
    elementwise: Expression = ZERO
    transcendental: Expression = ZERO
    reduction: Expression = ZERO
    other: Expression = ZERO
    read: Expression = ZERO
    written: Expression = ZERO
    sent: Expression = ZERO
    sent_by_doubling: Expression = ZERO
    boundary: Expression = ZERO  # of what is read or written, arguments and results, once each

    def then(self, other: "Work") -> "Work":
        """Both, one after the other."""
        return Work(*(a + b if b is not ZERO else a for a, b in zip(self, other, strict=True)))

    def repeated(self, times: Expression) -> "Work":
        """The same, as often as that."""
        return Work(*(a * times for a in self))

    def on_each(self, devices: Expression) -> "Work":
        """The same on so many devices side by side; what one of them sends stays as it is."""
        alone = {"sent": self.sent, "sent_by_doubling": self.sent_by_doubling}
        return self.repeated(devices)._replace(**alone)

    def moving(self, read: Expression, written: Expression) -> "Work":
        """The same operations with these bytes moved."""
        return self._replace(read=read, written=written)


NOTHING = Work()


def total(works: Iterable[Work]) -> Work:
    """All of it together."""
    whole = NOTHING
    for work in works:
        whole = whole.then(work)
    return whole


def either(alternatives: list[Work]) -> Work:
    """The largest of each measure over alternatives of which one takes place."""
    return Work(*(largest(measures) for measures in zip(*alternatives, strict=True)))


def operations(**kinds: Expression) -> Work:
    """Work of these kinds, with no bytes moved."""
    return Work(flops=sum(kinds.values(), ZERO), **kinds)
