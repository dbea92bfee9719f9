"""A Monte Carlo estimate with its error."""

import jax
import jax.numpy as jnp

from equipoise._types import Array, Scalar, result, short


@result
class Estimate:
    """A mean with its standard error over draws.

    Attributes:
        value: The mean.
        standard_error: Standard deviation of ``value`` over the draws, which carries no gradient;
            nan where the draws cannot tell, as with a single one, and 0 where nothing is drawn.
        error_bound: For a value that nothing is drawn for, from a cubature rule: how far a smaller
            rule is from it, which bounds the error where the rules converge. Otherwise None.
    """

    value: Scalar
    standard_error: Scalar
    error_bound: Scalar | None = None

    def __str__(self) -> str:
        """The value and its error in one line."""
        if self.error_bound is not None:
            return f"{short(self.value)} within {short(self.error_bound)}"
        return f"{short(self.value)} ± {short(self.standard_error)}"


def standard_error(terms: Array) -> Scalar:
    """Standard error of the mean of independent terms; nan for a single one."""
    n = terms.shape[0]
    if n == 1:
        return jnp.full((), jnp.nan, terms.dtype)
    spread = jnp.std(jax.lax.stop_gradient(terms), ddof=1)
    return jnp.divide(spread, n**0.5)
