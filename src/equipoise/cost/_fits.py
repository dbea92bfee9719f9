"""Whether a program fits into the memory of a device, and what is left."""

from equipoise._check import at, type_error
from equipoise._types import aligned, static_result
from equipoise.cost._analyze import Cost
from equipoise.cost._expression.amount import amount, in_bytes
from equipoise.cost._expression.polynomial import Number
from equipoise.cost._training import TrainingCost


@static_result
class Fits:
    """Whether a program fits into memory; true as a condition where it does.

    Attributes:
        fits: Whether it does.
        peak_bytes: Bytes alive at the worst moment, arguments and results included.
        memory: Bytes that there are.
        left: Bytes that are left at that moment; negative where it does not fit.
    """

    fits: bool
    peak_bytes: Number
    memory: Number
    left: Number

    def __bool__(self) -> bool:
        return self.fits

    def __str__(self) -> str:
        rows: list[list[object]] = [
            ["  left" if self.fits else "  missing", in_bytes(max(self.left, -self.left))],
            ["  peak_bytes", in_bytes(self.peak_bytes)],
            ["  memory", in_bytes(self.memory)],
        ]
        return f"Fits: {'yes' if self.fits else 'no'}\n{aligned(rows)}"


@at("cost.fits")
def fits(cost: Cost | TrainingCost, memory: int | str, /, **sizes: int) -> Fits:
    r"""Whether a program fits into memory at given sizes, and how much is left.

    .. math::

        M(n, d, \dots) \le \text{memory}

    Args:
        cost: What :func:`analyze` or :func:`analyze_training` returned; of the latter, the forward
            and the backward pass in one program count. On a mesh it is one device that counts.
        memory: Bytes, or an amount such as ``"80 GB"`` (10⁹ bytes each) or ``"16 GiB"``.
        sizes: A number for every size.

    Returns:
        :class:`Fits`, true as a condition where the program fits.

    Raises:
        ValueError: If a size is missing or not positive, or ``memory`` is no amount.
        TypeError: If ``cost`` is no cost, or a size is no integer.

    Cost: One evaluation of an expression.

    Examples:
        >>> product = cost.analyze(lambda a, b: a @ b, "f32[n,n]", "f32[n,n]")
        >>> print(cost.fits(product, "16 GB", n=30_000))
        Fits: yes
          left        5.2 GB
          peak_bytes  10.8 GB
          memory      16 GB
        >>> product.peak_bytes.largest("n", at_most="16 GB")
        36514

    References:
        Peak memory of a schedule: :cite:t:`griewank2008`.
    """
    if isinstance(cost, TrainingCost):
        cost = cost.total
    if not isinstance(cost, Cost):
        raise type_error("cost", "must be a Cost or a TrainingCost", cost, "Call cost.analyze.")
    available = amount("memory", memory)
    peak = (cost.per_device or cost).peak_bytes.evaluate(**sizes)
    return Fits(fits=peak <= available, peak_bytes=peak, memory=available, left=available - peak)
