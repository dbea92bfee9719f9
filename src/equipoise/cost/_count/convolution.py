"""Products in a convolution, those with padding or dilation holes left out."""

import math
from collections.abc import Sequence

from equipoise._jax.programs import Aval, Equation
from equipoise.cost._expression.expression import ZERO, Expression
from equipoise.cost._expression.extremes import at_least_zero, smaller
from equipoise.cost._program.sizes import size_of


def products(
    image: Aval, kernel: Aval, output: Aval, equation: Equation
) -> tuple[Expression, Expression]:
    """Multiplications in all, and products summed into one element away from the border."""
    params = equation.params
    numbers = params["dimension_numbers"]
    lhs, rhs, out = (
        _sizes(image, numbers.lhs_spec),
        _sizes(kernel, numbers.rhs_spec),
        _sizes(output, numbers.out_spec),
    )
    batch, channels_out, channels_in = out[0], out[1], rhs[1]
    # With groups of the batch, as in a gradient, each output channel reads one group of it.
    total, taps = batch * channels_out * channels_in, channels_in
    for axis in range(len(lhs) - 2):
        total = total * _meetings(
            lhs[axis + 2],
            rhs[axis + 2],
            out[axis + 2],
            stride=int(params["window_strides"][axis]),
            low=size_of(params["padding"][axis][0]),
            holes=int(params["lhs_dilation"][axis]),
            spread=int(params["rhs_dilation"][axis]),
        )
        taps = taps * rhs[axis + 2]
    return total, taps


def _sizes(aval: Aval, axes: Sequence[int]) -> list[Expression]:
    return [size_of(aval.shape[axis]) for axis in axes]


def _meetings(
    size: Expression,
    kernel: Expression,
    out: Expression,
    *,
    stride: int,
    low: Expression,
    holes: int,
    spread: int,
) -> Expression:
    """Pairs of an output and a kernel position along an axis that meet an element of the image.

    Output o and kernel position k meet position o·stride + k·spread − low of the image with its
    holes; an element is there where holes divides that and it lies in the image. Counted along
    the kernel or the output, whichever is a number; where neither is, every pair counts.
    """
    if kernel.constant is not None and low.constant is not None:
        return _along(int(kernel.constant), spread, int(low.constant), out, stride, size, holes)
    if out.constant is not None and low.constant is not None:
        return _along(int(out.constant), stride, int(low.constant), kernel, spread, size, holes)
    return kernel * out


def _along(
    known: int,
    known_step: int,
    low: int,
    free: Expression,
    free_step: int,
    size: Expression,
    holes: int,
) -> Expression:
    """For each known position, the free ones whose image position is an element."""
    total = ZERO
    for position in range(known):
        # Solutions of step·i + shift ≡ 0 modulo holes are i = first + period·j.
        shift = position * known_step - low
        common = math.gcd(free_step, holes)
        if shift % common:
            continue
        period, step = holes // common, free_step // common
        first = -(shift // common) * pow(step, -1, period) % period
        # They meet the elements element + step·j.
        element = (free_step * first + shift) // holes
        lowest = max(0, -(element // step))
        highest = smaller((free - 1 - first) // period, (size - 1 - element) // step)
        total = total + at_least_zero(highest - lowest + 1)
    return total
