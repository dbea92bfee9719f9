"""How long a program takes at best on a device, what it waits for, and at which line."""

import dataclasses
from collections.abc import Iterator, Mapping

import jax.numpy as jnp

from equipoise._check import at, positive_integer, type_error
from equipoise._types import aligned, static_result
from equipoise.cost._analyze import Cost
from equipoise.cost._breakdown import Label, written
from equipoise.cost._machine.devices import Device, device_of
from equipoise.cost._training import TrainingCost

_RESOURCES = ("matrix units", "memory", "links")
_SHOWN = 10


@static_result
class Bounds(Mapping[Label, float]):
    """The least time that each part takes; a mapping from labels to seconds.

    Printed, it shows the ten parts that take longest. A part whose intermediate results need not
    leave the device is bound by nothing, and is left out.

    Attributes:
        kinds: What the parts are: lines, functions, scopes, primitives or dtypes.
        labels: One per part, in the order of the program; a tuple where there are several kinds.
        matmul_seconds: Of each part; they sum to that of the whole.
        memory_seconds: Arguments first read there, and results made there. What no part reads or
            makes, such as an argument that is returned, counts in the whole alone.
        communication_seconds: What a device sends there.
        code: The text of each line, where the parts are lines; otherwise empty.
    """

    kinds: tuple[str, ...]
    labels: tuple[Label, ...]
    matmul_seconds: tuple[float, ...]
    memory_seconds: tuple[float, ...]
    communication_seconds: tuple[float, ...]
    code: tuple[str, ...]

    @property
    def bound_by(self) -> tuple[str, ...]:
        """The resource that each part waits for."""
        return tuple(_RESOURCES[each.index(max(each))] for each in self._each())

    @property
    def in_turn(self) -> float:
        """The sum of the bounds, which holds where no part runs beside another."""
        return sum(self.values())

    def _each(self) -> list[tuple[float, float, float]]:
        columns = self.matmul_seconds, self.memory_seconds, self.communication_seconds
        return list(zip(*columns, strict=True))

    def __getitem__(self, label: Label) -> float:
        if label not in self.labels:
            raise KeyError(label)
        return max(self._each()[self.labels.index(label)])

    def __iter__(self) -> Iterator[Label]:
        return iter(self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __str__(self) -> str:
        order = sorted(range(len(self)), key=lambda i: -max(self._each()[i]))
        code = self.code or ("",) * len(self)
        rows: list[list[object]] = [
            [
                f"  {written(self.labels[i])}",
                f"{max(self._each()[i]):.2e}",
                self.bound_by[i],
                code[i],
            ]
            for i in order[:_SHOWN]
        ]
        if rest := order[_SHOWN:]:
            seconds = sum(max(self._each()[i]) for i in rest)
            rows.append([f"  {len(rest)} more", f"{seconds:.2e}", "", ""])
        header = [f"  {written(self.kinds)}", "seconds", "bound by", ""]
        return f"Bounds\n{aligned(rows, header=header)}"


@static_result
class Roofline:
    """A lower bound of the time of a program, and the resource that sets it.

    Attributes:
        bound_by: ``"matrix units"``, ``"memory"`` or ``"links"``.
        matmul_seconds: Products of matrices and convolutions at the peak of their types.
        memory_seconds: Arguments read and results written once, at the peak of the memory.
        communication_seconds: What a device sends, at the peak of its links.
        device: The device.
        cost: What was counted, of one device where there is a mesh.
        sizes: The number for every size.
        num_devices: How many devices share that evenly.
    """

    bound_by: str
    matmul_seconds: float
    memory_seconds: float
    communication_seconds: float
    device: Device
    cost: Cost = dataclasses.field(repr=False)
    sizes: tuple[tuple[str, int], ...] = dataclasses.field(repr=False)
    num_devices: int = dataclasses.field(repr=False)

    @property
    def seconds(self) -> float:
        """The bound in seconds, the largest of the three."""
        return max(self.matmul_seconds, self.memory_seconds, self.communication_seconds)

    @at("cost.Roofline.by")
    def by(self, *kinds: str, libraries: bool = False) -> Bounds:
        """The same bound for each part of the code: by line, scope or other kinds.

        Kinds and ``libraries`` are those of :meth:`Cost.by`. The longest part is what to change;
        parts that take no time at best are left out. Of ``analyze_training`` no part has arguments
        or results: analyze the gradient for those. Raises ``ValueError`` for another kind.
        """
        found: dict[Label, list[float]] = {}
        code: dict[Label, str] = {}
        for i, measure in enumerate(("matmul_flops", "boundary_bytes", "bytes_sent")):
            parts = self.cost.by(*kinds, measure=measure, libraries=libraries)
            code |= dict(zip(parts.labels, parts.code, strict=False))
            share = self.num_devices if measure != "bytes_sent" else 1
            typed = self.cost.by(*kinds, "dtype", measure=measure, libraries=libraries)
            for names, amount in typed.items():
                label = names[0] if len(names) == 2 else tuple(names[:-1])
                value = float(amount.evaluate(**dict(self.sizes)))
                seconds = found.setdefault(label, [0.0] * len(_RESOURCES))
                seconds[i] += _seconds(self.device, value, names[-1])[i] / share
        each = [tuple(seconds[i] for seconds in found.values()) for i in range(len(_RESOURCES))]
        return Bounds(
            kinds=kinds,
            labels=tuple(found),
            matmul_seconds=each[0],
            memory_seconds=each[1],
            communication_seconds=each[2],
            code=tuple(code[label] for label in found) if code else (),
        )


@at("cost.roofline")
def roofline(
    cost: Cost | TrainingCost,
    device: Device | str,
    /,
    *,
    num_devices: int | None = None,
    **sizes: int,
) -> Roofline:
    r"""Seconds that a program takes at best, and the resource that sets them.

    With F matrix operations of each type, Q bytes of arguments and results, and S bytes sent,

    .. math::

        t \ge \max\Big(\sum_{\text{types}} \frac{F}{R}, \frac{Q}{B}, \frac{S}{L}\Big)

    Args:
        cost: What :func:`analyze` or :func:`analyze_training` returned; of the latter, both passes.
        device: R, B and L: a :class:`Device`, or the name of a published one: ``"A100"``,
            ``"H100"``, ``"H200"``, ``"TPU v5e"``, ``"TPU v5p"`` or ``"TPU v6e"``.
        num_devices: Devices that share the work and the arrays evenly. By default what one device
            of the program's mesh does counts as it is, and a program without a mesh runs on one.
        sizes: A number for every size.

    Returns:
        :class:`Roofline`, of one device where ``analyze`` knew the mesh; :meth:`Roofline.by` has it
        line by line. It is a bound: elementwise work, intermediate results that leave the
        device and the starts of operations come on top. Where collectives are counted and the
        device has no links, the bound is infinite.

    Raises:
        ValueError: If the device is unknown, or a size or ``num_devices`` is missing or not
            positive.
        TypeError: If ``cost`` is no cost, or ``device`` no device.

    Cost: One evaluation for each type of numbers.

    Examples:
        >>> product = cost.analyze(lambda a, b: a @ b, "bf16[n,n]", "bf16[n,n]")
        >>> found = cost.roofline(product, "H100", n=8192)
        >>> print(f"{found.seconds:.2e}", found.bound_by)
        1.11e-03 matrix units
        >>> cost.roofline(product, "H100", n=64).bound_by
        'memory'
        >>> found.by("primitive")["dot_general"] == found.seconds
        True

    References:
        :cite:t:`williams2009`.
    """
    if isinstance(cost, TrainingCost):
        cost = cost.total
    if not isinstance(cost, Cost):
        raise type_error("cost", "must be a Cost or a TrainingCost", cost, "Call cost.analyze.")
    chosen, share = device_of(device), 1
    if num_devices is not None:
        share = positive_integer("num_devices", num_devices, minimum=1)
    elif cost.per_device is not None:
        cost = cost.per_device
    moved = cost.input_bytes + cost.output_bytes + cost.parameter_bytes
    sent = sum(float(part.ring_bytes.evaluate(**sizes)) for part in cost.communication)
    products = cost.by("dtype", measure="matmul_flops").items()
    seconds = (
        sum(_seconds(chosen, float(w.evaluate(**sizes)), str(t))[0] for t, w in products) / share,
        _seconds(chosen, float(moved.evaluate(**sizes)))[1] / share,
        _seconds(chosen, sent)[2],
    )
    return Roofline(
        _RESOURCES[seconds.index(max(seconds))], *seconds, chosen, cost, tuple(sizes.items()), share
    )


def _seconds(device: Device, amount: float, dtype: str = "float32") -> tuple[float, float, float]:
    """For so many matrix operations on numbers of a type, or bytes moved, or bytes sent."""
    rate = device.byte_flops if jnp.dtype(dtype).itemsize == 1 else device.flops
    links = amount / device.links if device.links else float("inf") if amount else 0.0
    return amount / rate, amount / device.bandwidth, links
