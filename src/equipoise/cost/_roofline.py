"""How long a program takes at best on a device, and what it waits for."""

import jax.numpy as jnp

from equipoise._check import at, positive_integer, type_error
from equipoise._types import static_result
from equipoise.cost._analyze import Cost
from equipoise.cost._machine.devices import Device, device_of
from equipoise.cost._training import TrainingCost


@static_result
class Roofline:
    """A lower bound of the time of a program, and the resource that sets it.

    Attributes:
        bound_by: ``"matrix units"``, ``"memory"`` or ``"links"``.
        matmul_seconds: Products of matrices and convolutions at the peak of their types.
        memory_seconds: Arguments read and results written once, at the peak of the memory.
        communication_seconds: What a device sends, at the peak of its links.
        device: The device.
    """

    bound_by: str
    matmul_seconds: float
    memory_seconds: float
    communication_seconds: float
    device: Device

    @property
    def seconds(self) -> float:
        """The bound in seconds, the largest of the three."""
        return max(self.matmul_seconds, self.memory_seconds, self.communication_seconds)


@at("cost.roofline")
def roofline(
    cost: Cost | TrainingCost, device: Device | str, /, *, num_devices: int = 1, **sizes: int
) -> Roofline:
    r"""Seconds that a program takes at best, and the resource that sets them.

    With F matrix operations of each type, Q bytes of arguments and results, and S bytes sent,

    .. math::

        t \ge \max\Big(\sum_{\text{types}} \frac{F}{R}, \frac{Q}{B}, \frac{S}{L}\Big)

    Args:
        cost: What :func:`analyze` or :func:`analyze_training` returned; of the latter, both passes.
        device: R, B and L: a :class:`Device`, or the name of a published one: ``"A100"``,
            ``"H100"``, ``"H200"``, ``"TPU v5e"``, ``"TPU v5p"`` or ``"TPU v6e"``.
        num_devices: Devices that share the work and the arrays evenly, as in a ``shard_map``.
        sizes: A number for every size.

    Returns:
        :class:`Roofline`. It is a bound: elementwise work, intermediate results that leave the
        device and the starts of operations come on top. Where collectives are counted and the
        device has no links, the bound is infinite.

    Raises:
        ValueError: If the device is unknown, or a size is missing or not positive.
        TypeError: If ``cost`` is no cost, or ``device`` no device.

    Cost: One evaluation for each type of numbers.

    Examples:
        >>> product = cost.analyze(lambda a, b: a @ b, "bf16[n,n]", "bf16[n,n]")
        >>> found = cost.roofline(product, "H100", n=8192)
        >>> print(f"{found.seconds:.2e}", found.bound_by)
        1.11e-03 matrix units
        >>> cost.roofline(product, "H100", n=64).bound_by
        'memory'

    References:
        :cite:t:`williams2009`.
    """
    if isinstance(cost, TrainingCost):
        cost = cost.total
    if not isinstance(cost, Cost):
        raise type_error("cost", "must be a Cost or a TrainingCost", cost, "Call cost.analyze.")
    chosen, share = device_of(device), positive_integer("num_devices", num_devices, minimum=1)
    moved = cost.input_bytes + cost.output_bytes + cost.parameter_bytes
    sent = sum(float(part.ring_bytes.evaluate(**sizes)) for part in cost.communication)
    seconds = {
        "matrix units": sum(
            float(work.evaluate(**sizes)) / _rate(chosen, str(dtype)) / share
            for dtype, work in cost.by("dtype", measure="matmul_flops").items()
        ),
        "memory": float(moved.evaluate(**sizes)) / chosen.bandwidth / share,
        "links": sent / chosen.links if chosen.links else float("inf") if sent else 0.0,
    }
    return Roofline(
        bound_by=max(seconds, key=lambda name: seconds[name]),
        matmul_seconds=seconds["matrix units"],
        memory_seconds=seconds["memory"],
        communication_seconds=seconds["links"],
        device=chosen,
    )


def _rate(device: Device, dtype: str) -> float:
    """Matrix operations a second on numbers of a type."""
    return device.byte_flops if jnp.dtype(dtype).itemsize == 1 else device.flops
