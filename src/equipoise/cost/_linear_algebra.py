"""Operations of dense linear algebra by the counts of the standard algorithms.

XLA hands these to a library and has no figure of its own, so each count is stated as an
assumption. Exact counts where the algorithm is finite; the usual leading terms where it iterates.
All of them eliminate one column after another: the chain in pairwise steps has n stages.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

from equipoise.cost import _shapes
from equipoise.cost._expression import ONE, Expression, apply


def batch(aval: Any) -> Expression:
    """The number of matrices."""
    return _shapes.count(aval.shape[:-2])


def matrix(aval: Any) -> tuple[Expression, Expression]:
    """Rows and columns of one matrix."""
    rows, columns = aval.shape[-2:]
    return _shapes.expression(rows), _shapes.expression(columns)


def cholesky(inputs: list[Any], outputs: list[Any]) -> Expression:
    """n³/3 + n²/2 + n/6: column k takes a root, n − k divisions and their products."""
    n, _ = matrix(inputs[0])
    return n**3 * Fraction(1, 3) + n**2 * Fraction(1, 2) + n * Fraction(1, 6)


def lu(inputs: list[Any], outputs: list[Any]) -> Expression:
    """Σ over r = min(m, n) pivots of (m − k) divisions and 2(m − k)(n − k) for the rest."""
    m, n = matrix(inputs[0])
    r = apply("min", m, n)
    first, second = r * (r + 1) / 2, r * (r + 1) * (2 * r + 1) / 6
    return m * r - first + 2 * (m * n * r - (m + n) * first + second)


def householder(inputs: list[Any], outputs: list[Any]) -> Expression:
    """2mn² − 2n³/3 for m ≥ n, and so for m < n with both exchanged: n reflections."""
    m, n = matrix(inputs[0])
    r = apply("min", m, n)
    return 2 * (2 * m * n * r - (m + n) * r**2 + r**3 * Fraction(2, 3))


def eigh(inputs: list[Any], outputs: list[Any]) -> Expression:
    """9n³ with vectors, 4n³/3 without: tridiagonal form and the symmetric QR iteration."""
    n, _ = matrix(inputs[0])
    return 9 * n**3 if len(outputs) > 1 else n**3 * Fraction(4, 3)


def eig(inputs: list[Any], outputs: list[Any]) -> Expression:
    """25n³ with vectors, 10n³ without: Hessenberg form and the QR iteration."""
    n, _ = matrix(inputs[0])
    return (25 if len(outputs) > 1 else 10) * n**3


def svd(inputs: list[Any], outputs: list[Any]) -> Expression:
    """4m²n + 8mn² + 9n³ with vectors (m ≥ n), 4mn² − 4n³/3 without: bidiagonal form and QR."""
    rows, columns = matrix(inputs[0])
    m, n = apply("max", rows, columns), apply("min", rows, columns)
    if len(outputs) > 1:
        return 4 * m**2 * n + 8 * m * n**2 + 9 * n**3
    return 4 * m * n**2 - n**3 * Fraction(4, 3)


def triangular_solve(inputs: list[Any], outputs: list[Any]) -> Expression:
    """n² for each right-hand side."""
    n, _ = matrix(inputs[0])
    rows, columns = matrix(inputs[1])
    return n * rows * columns


def tridiagonal_solve(inputs: list[Any], outputs: list[Any]) -> Expression:
    """8 for each element of the right-hand sides: one sweep down and one up."""
    rows, columns = matrix(inputs[-1])
    return 8 * rows * columns


def reduction_to_band(inputs: list[Any], outputs: list[Any]) -> Expression:
    """10n³/3 to Hessenberg form; the symmetric tridiagonal form needs less."""
    n, _ = matrix(inputs[0])
    return n**3 * Fraction(10, 3)


# The count for one matrix; leading axes are a batch of them.
COUNTS: dict[str, Callable[[list[Any], list[Any]], Expression]] = {
    "cholesky": cholesky,
    "cholesky_update": lambda i, o: 4 * matrix(i[0])[0] ** 2,
    "lu": lu,
    "geqrf": householder,
    "geqp3": householder,
    "qr": lambda i, o: 2 * householder(i, o),
    "householder_product": householder,
    "ormqr": lambda i, o: 2 * householder(i, o),
    "eigh": eigh,
    "eig": eig,
    "schur": eig,
    "svd": svd,
    "triangular_solve": triangular_solve,
    "tridiagonal_solve": tridiagonal_solve,
    "hessenberg": reduction_to_band,
    "tridiagonal": reduction_to_band,
    "symmetric_product": lambda i, o: matrix(i[0])[0] ** 2 * matrix(i[0])[1],
}


def stages(inputs: list[Any]) -> Expression:
    """Columns that are eliminated one after another."""
    return matrix(inputs[0])[1] if len(inputs[0].shape) > 1 else ONE
