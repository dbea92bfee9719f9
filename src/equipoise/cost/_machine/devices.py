"""What devices can do at best: published peaks, and those of the machine at hand.

Peaks are dense, of one chip, and links count one direction: what a device sends, half of what data
sheets print for both. TPUs: docs.cloud.google.com/tpu/docs/v5e, /v5p and /v6e, read in November
2026; 8-bit numbers are integers there, as on the A100. GPUs: NVIDIA's data sheets of A100 (SXM,
80 GB), H100 (SXM) and H200, half of what they print with sparsity.
"""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from equipoise._check import at, choice, type_error
from equipoise._types import Array, static_result


@static_result
class Device:
    """Peak rates of a device, and its memory.

    Attributes:
        name: What it is called.
        flops: Operations a second in products of matrices of 16-bit numbers and wider.
        byte_flops: The same of 8-bit numbers.
        memory: Bytes.
        bandwidth: Bytes a second between the device and its memory.
        links: Bytes a second that it can send to other devices; 0 where there are none.
    """

    name: str
    flops: float
    byte_flops: float
    memory: float
    bandwidth: float
    links: float = 0.0


# TFLOP/s, TFLOP/s of 8-bit numbers, GB, TB/s, GB/s sent.
_PUBLISHED = {
    "A100": (312, 624, 80, 2.039, 300),
    "H100": (989, 1979, 80, 3.35, 450),
    "H200": (989, 1979, 141, 4.8, 450),
    "TPU v5e": (197, 393, 16, 0.819, 200),
    "TPU v5p": (459, 918, 95, 2.765, 600),
    "TPU v6e": (918, 1836, 32, 1.638, 400),
}


def device_of(device: Device | str) -> Device:
    """A device that is given, or a published one by its name."""
    if isinstance(device, Device):
        return device
    if not isinstance(device, str):
        raise type_error("device", "must be a Device or the name of one", device)
    flops, byte_flops, memory, bandwidth, links = _PUBLISHED[
        choice("device", device, tuple(_PUBLISHED))
    ]
    return Device(
        name=device,
        flops=flops * 1e12,
        byte_flops=byte_flops * 1e12,
        memory=memory * 1e9,
        bandwidth=bandwidth * 1e12,
        links=links * 1e9,
    )


@at("cost.measure_device")
def measure_device(size: int = 1024, *, repeats: int = 5) -> Device:
    r"""Rates of the device that JAX computes on, measured with a product and a copy.

    .. math::

        R = \frac{2 s^3}{t_{\text{product}}}, \qquad B = \frac{8 m}{t_{\text{copy}}}

    Args:
        size: s, rows and columns of the matrices; 16·s² numbers m are copied.
        repeats: Runs of each, of which the fastest counts.

    Returns:
        :class:`Device` with rates for 32-bit numbers, which stand for all types; no links, and the
        memory that the device states, 0 where it states none.

    Raises:
        ValueError: If ``size`` or ``repeats`` is not positive, as JAX or ``min`` say it.

    Cost: A compilation of each, and 2·s³·repeats FLOPs.

    Examples:
        >>> here = cost.measure_device(64, repeats=1)
        >>> here.flops > 0 and here.bandwidth > 0
        True

    References:
        :cite:t:`williams2009`.
    """
    device = jax.devices()[0]
    matrix = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    product(matrix).block_until_ready()
    flops = 2 * size**3 / min(_timed(product, matrix)[0] for _ in range(repeats))
    # In place: on some machines memory that was not used yet is slow, whoever writes to it.
    copy = jax.jit(lambda a: a + 1, donate_argnums=0)
    long = copy(jnp.ones(16 * size**2, jnp.float32))
    times = []
    for _ in range(repeats):
        elapsed, long = _timed(copy, long)
        times.append(elapsed)
    bandwidth = 2 * long.nbytes / min(times)
    stated = device.memory_stats() or {}
    return Device(
        name=f"{device.platform}: {device.device_kind}",
        flops=flops,
        byte_flops=flops,
        memory=float(stated.get("bytes_limit", 0)),
        bandwidth=bandwidth,
    )


def _timed(run: Callable[[Array], Array], operand: Array) -> tuple[float, Array]:
    """Seconds of a run, and its result."""
    operand.block_until_ready()
    start = time.perf_counter()
    found = run(operand).block_until_ready()
    return time.perf_counter() - start, found
