"""A normal whose covariance is diagonal plus low rank."""

import jax
import jax.numpy as jnp

from equipoise._check import at, positive_integer
from equipoise._types import Array, PRNGKeyArray, PyTree, Scalar
from equipoise.vi._families.core import Core, assemble
from equipoise.vi._families.family import Family, remembered
from equipoise.vi._families.layout import Layout, layout
from equipoise.vi._families.mean_field import LOG_2PI, normal_log_prob
from equipoise.vi._supports.support import Support


@at("vi.low_rank")
def low_rank(example: PyTree, *, rank: int, support: PyTree | Support | None = None) -> Family:
    r"""A normal whose covariance is diagonal plus low rank.

    .. math::

        z = m + e^{\ell} \odot (\varepsilon + W \eta), \qquad
        \Sigma = D (I + W W^\top) D, \quad D = \operatorname{diag}(e^{\ell})

    W has no units, as its rows share the scale of their coordinate.

    Args:
        example: A pytree of floating-point arrays, or of ``jax.ShapeDtypeStruct``, with the shapes
            of one position; its values are not used.
        rank: Number of columns r of W. With r = d − 1 any covariance can be reached.
        support: Where each leaf lives: one support for all, or a pytree of supports like the
            example; leaves that it leaves out are real. Default: all reals.

    Returns:
        A :class:`Family` with params ``{"mean": m, "log_scale": ℓ, "factor": W}``. Since W = 0 is
        a stationary point of every bound, ``init`` draws a small W from its key, or from
        ``jax.random.key(0)`` without one.

    Raises:
        TypeError: If a leaf of the example is not floating-point.
        ValueError: If the example has no leaf, ``support`` does not fit it, or ``rank`` is below 1.

    Cost: d(r + 2) parameters; O(d·r) for a draw, O(d·r² + r³) for a density or the entropy.

    Examples:
        >>> family = vi.low_rank(jnp.zeros(50), rank=2)
        >>> print(sum(leaf.size for leaf in jax.tree.leaves(family.init())))
        200

    References:
        :cite:t:`ong2018`.
    """
    positive_integer("rank", rank)
    return _low_rank(layout(example, support), rank)


@remembered
def _low_rank(shape: Layout, rank: int) -> Family:
    d = shape.size

    def init(key: PRNGKeyArray | None, center: Array, scale: Array) -> dict[str, Array]:
        key = jax.random.key(0) if key is None else key
        factor = 0.01 * jax.random.normal(key, (d, rank), "float32").astype(shape.dtype)
        log_scale = jnp.broadcast_to(jnp.log(scale), (d,))
        return {"mean": center, "log_scale": log_scale, "factor": factor}

    def capacitance(params: dict[str, Array]) -> Array:
        """Cholesky factor of I + WᵀW."""
        gram = params["factor"].T @ params["factor"]
        return jnp.linalg.cholesky(gram + jnp.eye(rank, dtype=gram.dtype))

    def log_volume(params: dict[str, Array]) -> Array:
        """Log |D| + log |I + W Wᵀ|/2, by the determinant lemma."""
        return jnp.sum(params["log_scale"]) + jnp.sum(jnp.log(jnp.diag(capacitance(params))))

    def transform(params: dict[str, Array], noise: Array) -> Array:
        standard = noise[:d] + params["factor"] @ noise[d:]
        return params["mean"] + jnp.exp(params["log_scale"]) * standard

    def log_prob(params: dict[str, Array], flat: Array) -> Scalar:
        standard = (flat - params["mean"]) * jnp.exp(-params["log_scale"])
        # |(I + WWᵀ)^(-1/2) x|² = |x|² − |C⁻¹ Wᵀ x|² with C Cᵀ = I + WᵀW.
        explained = jax.scipy.linalg.solve_triangular(
            capacitance(params), params["factor"].T @ standard, lower=True
        )
        return normal_log_prob(standard) + 0.5 * jnp.sum(explained**2) - log_volume(params)

    def entropy(params: dict[str, Array]) -> Scalar:
        return 0.5 * d * (1 + LOG_2PI) + log_volume(params)

    def moments(params: dict[str, Array]) -> tuple[Array, Array]:
        standard = jnp.concatenate([jnp.eye(d, dtype=shape.dtype), params["factor"]], axis=1)
        return params["mean"], jnp.exp(params["log_scale"])[:, None] * standard

    core = Core(
        "low_rank", d, d + rank, init, transform, log_prob, entropy=entropy, moments=moments
    )
    return assemble(core, shape)
