"""Costs side by side, as formulas or at given sizes."""

from collections.abc import Mapping, Sequence

from equipoise._check import at, choice, value_error
from equipoise._types import aligned, static_result
from equipoise.cost._analyze import Cost
from equipoise.cost._expression.expression import Expression
from equipoise.cost._expression.polynomial import Number

_MEASURES = ("flops", "depth", "log_depth", "peak_bytes", "residual_bytes")
_NO_COLUMNS = ("branches", "parts", "notes", "residuals")
_COLUMNS = (*(n for n in Cost.__annotations__ if n not in _NO_COLUMNS), "residual_bytes")


@static_result
class Comparison:
    """Costs side by side; printed as a table, one row per name.

    Each measure is an attribute too, such as ``comparison.flops``: its column, in the order of
    ``names``, of numbers where sizes were given and of expressions otherwise.

    Attributes:
        names: What is compared, one row each.
        measures: The fields of :class:`Cost` that are compared, one column each.
        expressions: Rows of expressions; None where a measure does not exist.
        values: Rows of numbers at the given sizes; empty if none were given.
    """

    names: tuple[str, ...]
    measures: tuple[str, ...]
    expressions: tuple[tuple[Expression | None, ...], ...]
    values: tuple[tuple[Number | None, ...], ...]

    def __getattr__(self, measure: str) -> tuple[Expression | Number | None, ...]:
        if measure not in _COLUMNS or measure not in self.measures:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {measure!r}")
        column = self.measures.index(measure)
        return tuple(row[column] for row in self._rows)

    @property
    def _rows(self) -> tuple[tuple[Expression | Number | None, ...], ...]:
        return self.values or self.expressions

    def __str__(self) -> str:
        cells = [
            [name, *("-" if cell is None else str(cell) for cell in row)]
            for name, row in zip(self.names, self._rows, strict=True)
        ]
        return aligned(cells, header=["", *self.measures])


@at("cost.compare")
def compare(
    costs: Mapping[str, Cost], /, *, measures: Sequence[str] = _MEASURES, **sizes: int
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
        >>> print(table.flops[0] / table.flops[1])
        d/n
        >>> print(table)
                flops    depth
        dense   2*d^2*n  1
        scores  2*d*n^2  1

    References:
        Laid out as table 1 of :cite:t:`vaswani2017`.
    """
    if not costs:
        raise value_error("costs", "must have at least one entry", "none")
    for measure in measures:
        choice("measures", measure, _COLUMNS)
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
