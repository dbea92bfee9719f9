"""The parts of a cost: by line, scope or operation, and what devices send each other."""

import linecache
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

from equipoise._check import choice, value_error
from equipoise._jax.source import Frame, is_library
from equipoise._types import aligned, static_result
from equipoise.cost._count.place import Place
from equipoise.cost._count.work import Work
from equipoise.cost._expression.expression import ZERO, Expression
from equipoise.cost._expression.printing import folded

Label: TypeAlias = str | tuple[str, ...]
_KINDS = ("matmul", "elementwise", "transcendental", "reduction", "other")
# The field of a cost, and that of the work at a place.
_MEASURES = {
    "flops": "flops",
    "bytes_read": "read",
    "bytes_written": "written",
    "bytes_sent": "sent",
    "boundary_bytes": "boundary",
} | {f"{kind}_flops": kind for kind in _KINDS}
_NOT_YOURS = "outside your files"
_SHOWN = 10
_SIZE = 1024  # of every name, where parts are put in order


@static_result
class Breakdown(Mapping[Label, Expression]):
    """Parts of a cost, which sum to the whole; a mapping from labels to expressions.

    Printed, it shows the ten parts that are largest where all sizes are 1024, and the rest as one.

    Attributes:
        kinds: What the parts are: lines, functions, scopes, primitives or dtypes.
        measure: The field of :class:`Cost` that is divided.
        labels: One per part, in the order of the program; a tuple where there are several kinds.
        expressions: What each part costs.
        code: The text of each line, where the parts are lines; otherwise empty.
    """

    kinds: tuple[str, ...]
    measure: str
    labels: tuple[Label, ...]
    expressions: tuple[Expression, ...]
    code: tuple[str, ...]

    def __getitem__(self, label: Label) -> Expression:
        if label not in self.labels:
            raise KeyError(label)
        return self.expressions[self.labels.index(label)]

    def __iter__(self) -> Iterator[Label]:
        return iter(self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __str__(self) -> str:
        values = [float(e.at(dict.fromkeys(e.names, _SIZE))) for e in self.expressions]
        whole = sum(values) or 1.0
        order = sorted(range(len(values)), key=lambda i: -values[i])
        shown, hidden = order[:_SHOWN], order[_SHOWN:]
        code = self.code or ("",) * len(values)
        rows = [
            [
                f"  {written(self.labels[i])}",
                f"{values[i] / whole:.1%}",
                folded(self.expressions[i]),
                code[i],
            ]
            for i in shown
        ]
        if hidden:
            rest = sum(values[i] for i in hidden) / whole
            rows.append([f"  {len(hidden)} more", f"{rest:.1%}", "", ""])
        header = [f"  {written(self.kinds)}", f"at {_SIZE}", self.measure, ""]
        return f"Breakdown\n{aligned(rows, header=header)}"


def by(
    whole: Sequence[tuple[Place, Work]], kinds: Sequence[str], measure: str, *, libraries: bool
) -> Breakdown:
    """Work by place, summed over what has the same label."""
    if not kinds:
        raise value_error("kinds", f"must be some of {', '.join(_LABELS)}", "none")
    labels = [_LABELS[choice("kinds", kind, tuple(_LABELS))] for kind in kinds]
    field = _MEASURES[choice("measure", measure, tuple(_MEASURES))]
    parts: dict[Label, Expression] = {}
    code: dict[Label, str] = {}
    for place, work in whole:
        amount = getattr(work, field)
        if amount == 0:
            continue
        frame = place.library if libraries else place.user
        names = tuple(label(place, frame) for label in labels)
        name = names if len(names) > 1 else names[0]
        parts[name] = parts.get(name, ZERO) + amount
        code[name] = linecache.getline(frame.file, frame.line).strip()
    return Breakdown(
        kinds=tuple(kinds),
        measure=measure,
        labels=tuple(parts),
        expressions=tuple(parts.values()),
        code=tuple(code.values()) if "line" in kinds else (),
    )


@static_result
class Communication:
    """Bytes that a device sends in the collectives of one kind along some axes.

    Attributes:
        kind: ``"all-reduce"``, ``"all-gather"``, ``"reduce-scatter"``, ``"all-to-all"``,
            ``"permute"``; or ``"resharding"``, where the partitioner decides what is sent and the
            bytes are those at most.
        axes: The axes of the mesh along which devices take part.
        ring_bytes: Bytes that a device sends where pieces pass along a ring.
        tree_bytes: The same by recursive doubling, in as few rounds as can be.
    """

    kind: str
    axes: tuple[str, ...]
    ring_bytes: Expression
    tree_bytes: Expression


def communication(parts: Sequence[tuple[Place, Work]]) -> tuple[Communication, ...]:
    """The collectives among the parts of a cost, summed over equal kinds and axes."""
    sums: dict[tuple[str, tuple[str, ...]], tuple[Expression, Expression]] = {}
    for place, work in parts:
        if place.collective is not None:
            kind, axes, _ = place.collective
            ring, tree = sums.get((kind, axes), (ZERO, ZERO))
            sums[kind, axes] = (ring + work.sent, tree + work.sent_by_doubling)
    return tuple(
        Communication(kind=kind, axes=axes, ring_bytes=ring, tree_bytes=tree)
        for (kind, axes), (ring, tree) in sums.items()
    )


def written(label: Label) -> str:
    """A label as one text."""
    return label if isinstance(label, str) else " · ".join(label)


def _file(frame: Frame) -> str:
    """The path from the working directory; the last two parts of what is elsewhere or installed."""
    if frame.file.startswith("<"):
        return frame.file
    here = os.path.relpath(frame.file)
    if here.startswith("..") or is_library(frame.file):
        return os.sep.join(frame.file.split(os.sep)[-2:])
    return here


def _line(place: Place, frame: Frame) -> str:
    return f"{_file(frame)}:{frame.line}" if frame.file else _NOT_YOURS


def _function(place: Place, frame: Frame) -> str:
    return f"{frame.function} in {_file(frame)}" if frame.file else _NOT_YOURS


_LABELS: dict[str, Callable[[Place, Frame], str]] = {
    "line": _line,
    "function": _function,
    "scope": lambda place, _: "/".join(place.scope) or "no scope",
    "primitive": lambda place, _: place.primitive,
    "dtype": lambda place, _: place.dtype,
}
