"""A normal with any covariance."""

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._check import at
from equipoise._types import Array, PRNGKeyArray, PyTree, Scalar
from equipoise.vi._families.core import Core, assemble
from equipoise.vi._families.family import Family, Natural, remembered
from equipoise.vi._families.layout import Layout, layout
from equipoise.vi._families.mean_field import normal_entropy, normal_log_prob
from equipoise.vi._supports.support import Support


def scale_tril(params: dict[str, Array]) -> Array:
    """L of the covariance L Lᵀ, from the params of :func:`full_rank`."""
    d = params["log_scale"].shape[0]
    unit = jnp.eye(d, dtype=params["lower"].dtype)
    unit = unit.at[np.tril_indices(d, -1)].set(params["lower"])
    return jnp.exp(params["log_scale"])[:, None] * unit


def from_scale_tril(mean: Array, factor: Array) -> dict[str, Array]:
    """The params of :func:`full_rank` with that mean and Cholesky factor."""
    diagonal = jnp.diagonal(factor)
    lower = (factor / diagonal[:, None])[np.tril_indices(factor.shape[0], -1)]
    return {"mean": mean, "log_scale": jnp.log(diagonal), "lower": lower}


@at("vi.full_rank")
def full_rank(example: PyTree, *, support: PyTree | Support | None = None) -> Family:
    r"""A normal with any covariance.

    .. math::

        q(z) = \mathcal{N}(z \mid m, L L^\top), \qquad L = \operatorname{diag}(e^{\ell})\,(I + U),
        \qquad z = m + L \varepsilon

    U is strictly lower triangular. The rows of L share the scale of their coordinate, so U has no
    units: measuring a coordinate in other units shifts its ℓ and leaves U alone.

    Args:
        example: A pytree of floating-point arrays, or of ``jax.ShapeDtypeStruct``, with the shapes
            of one position; its values are not used.
        support: Where each leaf lives: one support for all, or a pytree of supports like the
            example; leaves that it leaves out are real. Default: all reals.

    Returns:
        A :class:`Family` with params ``{"mean": m, "log_scale": ℓ, "lower": U}``, where ``lower``
        has the d(d − 1)/2 entries of U row by row. Its ``init`` also takes a lower triangular
        ``scale`` of shape ``(d, d)`` with positive diagonal, which is L.

    Raises:
        TypeError: If a leaf of the example is not floating-point.
        ValueError: If the example has no leaf, or ``support`` does not fit it.

    Cost: d(d + 3)/2 parameters; O(d²) for a draw or a density, O(d) for the entropy.

    Examples:
        >>> family = vi.full_rank(jnp.zeros(2))
        >>> params = family.init(scale=jnp.array([[2.0, 0.0], [1.0, 3.0]]))
        >>> print(family.transform(params, jnp.ones(2)))
        [2. 4.]

    References:
        :cite:t:`kucukelbir2017`, section 2.4.
    """
    return _full_rank(layout(example, support))


@remembered
def _full_rank(shape: Layout) -> Family:
    d = shape.size

    def init(key: PRNGKeyArray | None, center: Array, scale: Array) -> dict[str, Array]:
        if scale.ndim == 2:
            return from_scale_tril(center, scale)
        lower = jnp.zeros(d * (d - 1) // 2, shape.dtype)
        log_scale = jnp.broadcast_to(jnp.log(scale), (d,))
        return {"mean": center, "log_scale": log_scale, "lower": lower}

    def transform(params: dict[str, Array], noise: Array) -> Array:
        return params["mean"] + scale_tril(params) @ noise

    def log_prob(params: dict[str, Array], flat: Array) -> Scalar:
        noise = jax.scipy.linalg.solve_triangular(
            scale_tril(params), flat - params["mean"], lower=True
        )
        return normal_log_prob(noise) - jnp.sum(params["log_scale"])

    def moments(params: dict[str, Array]) -> tuple[Array, Array]:
        return params["mean"], scale_tril(params)

    return assemble(
        Core(
            "full_rank",
            d,
            d,
            init,
            transform,
            log_prob,
            entropy=normal_entropy,
            moments=moments,
            natural=Natural.FULL,
            takes_factor=True,
        ),
        shape,
    )
