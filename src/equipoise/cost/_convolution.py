"""Products in a convolution, those with padding or dilation holes left out."""

from typing import Any

from equipoise.cost import _shapes
from equipoise.cost._expression import ONE, ZERO, Expression, apply


def products(
    image: Any, kernel: Any, output: Any, params: dict[str, Any]
) -> tuple[Expression, Expression]:
    """Multiplications in all, and products summed into one element away from the border."""
    numbers = params["dimension_numbers"]
    sizes = lambda aval, axes: [_shapes.expression(aval.shape[a]) for a in axes]  # noqa: E731
    lhs, rhs, out = (
        sizes(image, numbers.lhs_spec),
        sizes(kernel, numbers.rhs_spec),
        sizes(output, numbers.out_spec),
    )
    batch, channels_out, channels_in = out[0], out[1], rhs[1]
    meetings, taps = ONE, channels_in
    for axis in range(len(lhs) - 2):
        meetings = meetings * _meetings(
            lhs[axis + 2],
            rhs[axis + 2],
            out[axis + 2],
            stride=Expression(params["window_strides"][axis]),
            low=_shapes.expression(params["padding"][axis][0]),
            holes=Expression(params["lhs_dilation"][axis]),
            spread=Expression(params["rhs_dilation"][axis]),
        )
        taps = taps * rhs[axis + 2]
    return batch * channels_out * channels_in * meetings, taps


def _meetings(
    size: Expression,
    kernel: Expression,
    out: Expression,
    *,
    stride: Expression,
    low: Expression,
    holes: Expression,
    spread: Expression,
) -> Expression:
    """Pairs of an output and a kernel position along an axis that meet an element of the image.

    Counted exactly for a kernel of known size over an image without holes; otherwise every pair
    counts, padding and holes included.
    """
    if kernel.constant is None or (holes != 1 and stride != 1):
        return kernel * out
    if holes != 1:
        return kernel * out / holes
    total = ZERO
    for tap in range(int(kernel.constant)):
        # Output o meets image position o·stride + offset, which must lie in [0, size).
        offset = spread * tap - low
        first = (
            apply("max", ZERO, -(offset // stride))
            if offset.constant is None
            else Expression(max(0, -int(offset.constant // stride.constant)))
        )
        last = (size - 1 - offset) // stride
        total = total + _at_least_zero(_smaller(out - 1, last) - first + 1)
    return total


def _smaller(a: Expression, b: Expression) -> Expression:
    from equipoise.cost import _order

    if _order.is_nonnegative(b - a):
        return a
    return b if _order.is_nonnegative(a - b) else apply("min", a, b)


def _at_least_zero(a: Expression) -> Expression:
    from equipoise.cost import _order

    return a if _order.is_nonnegative(a) else apply("max", ZERO, a)
