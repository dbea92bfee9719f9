"""Operations of dense linear algebra by the counts of the standard algorithms.

XLA hands these to a library and has no figure of its own, so each count is stated as an
assumption. Exact counts where the algorithm is finite; the usual leading terms where it iterates.
All of them eliminate one column after another: the chain in pairwise steps has n stages.
"""

from collections.abc import Callable
from fractions import Fraction

from equipoise._jax.programs import Aval
from equipoise.cost._count.operation import entered
from equipoise.cost._expression.expression import ONE, Expression, apply
from equipoise.cost._program.sizes import count, size_of

# Operations for one matrix; leading axes are a batch of them.
COUNTS: dict[str, Callable[[list[Aval], list[Aval]], Expression]] = {}


def batch(aval: Aval) -> Expression:
    """The number of matrices."""
    return count(aval.shape[:-2])


def _matrix(aval: Aval) -> tuple[Expression, Expression]:
    """Rows and columns of one matrix."""
    rows, columns = aval.shape[-2:]
    return size_of(rows), size_of(columns)


@entered(COUNTS, "cholesky")
def _cholesky(inputs: list[Aval], outputs: list[Aval]) -> Expression:
    """n³/3 + n²/2 + n/6: column k takes a root, n − k divisions and their products."""
    n, _ = _matrix(inputs[0])
    return n**3 * Fraction(1, 3) + n**2 * Fraction(1, 2) + n * Fraction(1, 6)


@entered(COUNTS, "cholesky_update")
def _cholesky_update(inputs: list[Aval], outputs: list[Aval]) -> Expression:
    """4n²: one rotation for each column."""
    return 4 * _matrix(inputs[0])[0] ** 2


@entered(COUNTS, "lu")
def _lu(inputs: list[Aval], outputs: list[Aval]) -> Expression:
    """Σ over r = min(m, n) pivots of (m − k) divisions and 2(m − k)(n − k) for the rest."""
    m, n = _matrix(inputs[0])
    r = apply("min", m, n)
    first, second = r * (r + 1) / 2, r * (r + 1) * (2 * r + 1) / 6
    return m * r - first + 2 * (m * n * r - (m + n) * first + second)


@entered(COUNTS, "geqrf geqp3 householder_product")
def _householder(inputs: list[Aval], outputs: list[Aval]) -> Expression:
    """2mn² − 2n³/3 for m ≥ n, and so for m < n with both exchanged: n reflections."""
    m, n = _matrix(inputs[0])
    r = apply("min", m, n)
    return 2 * (2 * m * n * r - (m + n) * r**2 + r**3 * Fraction(2, 3))


@entered(COUNTS, "qr ormqr")
def _reflected(inputs: list[Aval], outputs: list[Aval]) -> Expression:
    """The reflections are found and applied: twice the above."""
    return 2 * _householder(inputs, outputs)


@entered(COUNTS, "symmetric_product")
def _symmetric_product(inputs: list[Aval], outputs: list[Aval]) -> Expression:
    """m²n: half of the product, which is symmetric."""
    rows, columns = _matrix(inputs[0])
    return rows**2 * columns


@entered(COUNTS, "eigh")
def _eigh(inputs: list[Aval], outputs: list[Aval]) -> Expression:
    """9n³ with vectors, 4n³/3 without: tridiagonal form and the symmetric QR iteration."""
    n, _ = _matrix(inputs[0])
    return 9 * n**3 if len(outputs) > 1 else n**3 * Fraction(4, 3)


@entered(COUNTS, "eig schur")
def _eig(inputs: list[Aval], outputs: list[Aval]) -> Expression:
    """25n³ with vectors, 10n³ without: Hessenberg form and the QR iteration."""
    n, _ = _matrix(inputs[0])
    return (25 if len(outputs) > 1 else 10) * n**3


@entered(COUNTS, "svd")
def _svd(inputs: list[Aval], outputs: list[Aval]) -> Expression:
    """4m²n + 8mn² + 9n³ with vectors (m ≥ n), 4mn² − 4n³/3 without: bidiagonal form and QR."""
    rows, columns = _matrix(inputs[0])
    m, n = apply("max", rows, columns), apply("min", rows, columns)
    if len(outputs) > 1:
        return 4 * m**2 * n + 8 * m * n**2 + 9 * n**3
    return 4 * m * n**2 - n**3 * Fraction(4, 3)


@entered(COUNTS, "triangular_solve")
def _triangular_solve(inputs: list[Aval], outputs: list[Aval]) -> Expression:
    """n² for each right-hand side."""
    n, _ = _matrix(inputs[0])
    rows, columns = _matrix(inputs[1])
    return n * rows * columns


@entered(COUNTS, "tridiagonal_solve")
def _tridiagonal_solve(inputs: list[Aval], outputs: list[Aval]) -> Expression:
    """8 for each element of the right-hand sides: one sweep down and one up."""
    rows, columns = _matrix(inputs[-1])
    return 8 * rows * columns


@entered(COUNTS, "hessenberg tridiagonal")
def _reduction_to_band(inputs: list[Aval], outputs: list[Aval]) -> Expression:
    """10n³/3 to Hessenberg form; the symmetric tridiagonal form needs less."""
    n, _ = _matrix(inputs[0])
    return n**3 * Fraction(10, 3)


def stages(inputs: list[Aval]) -> Expression:
    """Columns that are eliminated one after another."""
    return _matrix(inputs[0])[1] if len(inputs[0].shape) > 1 else ONE
