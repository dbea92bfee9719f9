"""Independent normals, one for each coordinate."""

import jax.numpy as jnp
import numpy as np

from equipoise._check import at
from equipoise._types import Array, PRNGKeyArray, PyTree, Scalar
from equipoise.vi._families.core import Core, assemble
from equipoise.vi._families.family import Family, Natural, remembered
from equipoise.vi._families.layout import Layout, layout
from equipoise.vi._supports.support import Support

LOG_2PI = float(np.log(2 * np.pi))


def normal_log_prob(noise: Array) -> Scalar:
    """Log density of independent standard normal variates."""
    return -0.5 * (jnp.sum(noise**2) + noise.size * LOG_2PI)


def normal_entropy(params: dict[str, Array]) -> Scalar:
    """Entropy of a normal whose log-determinant is the sum of its log scales."""
    log_scale = params["log_scale"]
    return 0.5 * log_scale.size * (1 + LOG_2PI) + jnp.sum(log_scale)


@at("vi.mean_field")
def mean_field(example: PyTree, *, support: PyTree | Support | None = None) -> Family:
    r"""Independent normals, one for each coordinate of the position.

    .. math::

        q(z) = \prod_i \mathcal{N}(z_i \mid m_i, e^{2\ell_i}), \qquad
        z = m + e^{\ell} \odot \varepsilon, \quad \varepsilon \sim \mathcal{N}(0, I)

    The standard deviation is the exponential of a free parameter, so a step of an optimizer is a
    relative change and never leaves the family.

    Args:
        example: A pytree of floating-point arrays, or of ``jax.ShapeDtypeStruct``, with the shapes
            of one position; its values are not used.
        support: Where each leaf lives: one support for all, or a pytree of supports like the
            example; leaves that it leaves out are real. Default: all reals.

    Returns:
        A :class:`Family` with params ``{"mean": m, "log_scale": ℓ}``, both of shape
        ``(dimension,)`` in the order of ``jax.tree.leaves``. Equal examples give the same object.

    Raises:
        TypeError: If a leaf of the example is not floating-point.
        ValueError: If the example has no leaf, or ``support`` does not fit it.

    Cost: d parameters; O(d) for a draw, a density or the entropy.

    Examples:
        >>> family = vi.mean_field({"a": 0.0, "b": jnp.zeros(2)})
        >>> params = family.init(scale=2.0)
        >>> print(f"{family.entropy(params):.4f}")
        6.3363

    References:
        :cite:t:`kucukelbir2017`, section 2.4.
    """
    return _mean_field(layout(example, support))


@remembered
def _mean_field(shape: Layout) -> Family:
    def init(key: PRNGKeyArray | None, center: Array, scale: Array) -> dict[str, Array]:
        return {"mean": center, "log_scale": jnp.broadcast_to(jnp.log(scale), (shape.size,))}

    def transform(params: dict[str, Array], noise: Array) -> Array:
        return params["mean"] + jnp.exp(params["log_scale"]) * noise

    def log_prob(params: dict[str, Array], flat: Array) -> Scalar:
        noise = (flat - params["mean"]) * jnp.exp(-params["log_scale"])
        return normal_log_prob(noise) - jnp.sum(params["log_scale"])

    def moments(params: dict[str, Array]) -> tuple[Array, Array]:
        return params["mean"], jnp.exp(params["log_scale"])

    return assemble(
        Core(
            "mean_field",
            shape.size,
            shape.size,
            init,
            transform,
            log_prob,
            entropy=normal_entropy,
            moments=moments,
            natural=Natural.DIAGONAL,
        ),
        shape,
    )
