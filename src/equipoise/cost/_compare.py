from collections.abc import Mapping, Sequence

from equipoise import _check_old as _check
from equipoise._types import aligned, result, static_field
from equipoise.cost._analyze import Cost
from equipoise.cost._atoms import Number
from equipoise.cost._expression import Expression

MEASURES = ("flops", "depth", "log_depth", "peak_bytes", "residual_bytes")


@result
class Comparison:
    """Costs side by side; printed as a table.

    Attributes:
        names: What is compared, one row each.
        measures: The fields of :class:`Cost` that are compared, one column each.
        expressions: Rows of expressions; None where a measure does not exist.
        values: Rows of numbers at the given sizes; empty if none were given.
    """

    names: tuple[str, ...] = static_field()
    measures: tuple[str, ...] = static_field()
    expressions: tuple[tuple[Expression | None, ...], ...] = static_field()
    values: tuple[tuple[Number | None, ...], ...] = static_field()

    def __str__(self) -> str:
        rows = self.values or self.expressions
        cells = [
            [name, *("-" if cell is None else str(cell) for cell in row)]
            for name, row in zip(self.names, rows, strict=True)
        ]
        return aligned(cells, header=["", *self.measures])


def compare(
    costs: Mapping[str, Cost], *, measures: Sequence[str] = MEASURES, **sizes: int
) -> Comparison:
    r"""Costs of several functions side by side, as formulas or at given sizes.

    .. math::

        T_{ij} = c_j(f_i)(n, d, \dots)

    Args:
        costs: Name of each row i to its cost, as :func:`analyze` returns it.
        measures: The columns j, fields of :class:`Cost` that hold an expression.
        sizes: Numbers for all sizes, or none for formulas.

    Returns:
        :class:`Comparison`, whose ``str`` is the table. A measure that a function does not have
        (residuals without a derivative) is printed as ``-``.

    Raises:
        ValueError: If there is nothing to compare, a measure is not known, or a size is missing.

    Cost: One evaluation for each cell.

    Examples:
        >>> dense = cost.analyze(lambda w, x: x @ w, "f32[d,d]", "f32[n,d]")
        >>> scores = cost.analyze(lambda x: x @ x.T, "f32[n,d]")
        >>> table = cost.compare({"dense": dense, "scores": scores}, measures=("flops", "depth"))
        >>> print(table)
                flops    depth
        dense   2*d^2*n  1
        scores  2*d*n^2  1

    References:
        Laid out as table 1 of :cite:t:`vaswani2017`.
    """
    where = "cost.compare"
    if not costs:
        raise _check.value_error(where, "costs", "must have at least one entry", "none")
    known = [name for name in Cost.__dataclass_fields__ if name not in ("branches", "assumptions")]
    for measure in measures:
        _check.choice(where, "measures", measure, known)
    expressions = tuple(tuple(getattr(c, m) for m in measures) for c in costs.values())
    values = tuple(
        tuple(None if cell is None else cell.evaluate(**sizes) for cell in row)
        for row in (expressions if sizes else ())
    )
    return Comparison(
        names=tuple(costs),
        measures=tuple(measures),
        expressions=expressions,
        values=values,
    )
