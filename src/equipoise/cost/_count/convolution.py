"""Products in a convolution, those with padding or dilation holes left out."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from equipoise._jax.programs import Aval, Equation
from equipoise.cost._expression.expression import ZERO, Expression
from equipoise.cost._expression.extremes import at_least_zero, smaller
from equipoise.cost._program.sizes import size_of


class _Line(NamedTuple):
    """Positions along an axis, so far apart, of the output or of the kernel."""

    length: Expression
    step: int


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
        image_size, holes = lhs[axis + 2], int(params["lhs_dilation"][axis])
        kernel_line = _Line(rhs[axis + 2], int(params["rhs_dilation"][axis]))
        output_line = _Line(out[axis + 2], int(params["window_strides"][axis]))
        low = size_of(params["padding"][axis][0])
        total = total * _meetings(kernel_line, output_line, low, image_size, holes)
        taps = taps * rhs[axis + 2]
    return total, taps


def _sizes(aval: Aval, axes: Sequence[int]) -> list[Expression]:
    return [size_of(aval.shape[axis]) for axis in axes]


def _meetings(
    kernel: _Line, output: _Line, low: Expression, size: Expression, holes: int
) -> Expression:
    """Pairs of an output and a kernel position along an axis that meet an element of the image.

    Output o and kernel position k meet position o·stride + k·spread − low of the image with its
    holes; an element is there where holes divides that and it lies in the image. Counted along
    the kernel or the output, whichever is a number; where neither is, every pair counts.
    """
    for known, free in ((kernel, output), (output, kernel)):
        if known.length.constant is not None and low.constant is not None:
            count, start = int(known.length.constant), -int(low.constant)
            shifts = range(start, start + count * known.step, known.step)
            return _along(shifts, free, size, holes)
    return kernel.length * output.length


def _along(shifts: range, free: _Line, size: Expression, holes: int) -> Expression:
    """For each shift by a known position, the free ones whose image position is an element."""
    total = ZERO
    for shift in shifts:
        # Solutions of step·i + shift ≡ 0 modulo holes are i = first + period·j.
        common = math.gcd(free.step, holes)
        if shift % common:
            continue
        period, step = holes // common, free.step // common
        first = -(shift // common) * pow(step, -1, period) % period
        # They meet the elements element + step·j.
        element = (free.step * first + shift) // holes
        lowest = max(0, -(element // step))
        highest = smaller((free.length - 1 - first) // period, (size - 1 - element) // step)
        total = total + at_least_zero(highest - lowest + 1)
    return total
