"""A mixture of normals whose draws are differentiable."""

import jax
import jax.numpy as jnp

from equipoise._check import at, positive_integer
from equipoise._types import Array, PRNGKeyArray, PyTree, Scalar
from equipoise.vi._families.core import Core, assemble
from equipoise.vi._families.family import Family, remembered
from equipoise.vi._families.layout import Layout, layout
from equipoise.vi._families.mean_field import LOG_2PI, normal_log_prob
from equipoise.vi._supports.support import Support

_MAX_STEPS = 100
_Search = tuple[Array, Array, Array, Array, Array]  # bracket, point, last step, count


@at("vi.mixture")
def mixture(
    example: PyTree, *, num_components: int, support: PyTree | Support | None = None
) -> Family:
    r"""A mixture of normals with diagonal covariances, whose draws are differentiable.

    .. math::

        q(z) = \sum_k w_k \prod_i \mathcal{N}(z_i \mid m_{ki}, e^{2\ell_{ki}}), \qquad
        F_i(z_i \mid z_{<i}) = \Phi(\varepsilon_i), \quad i = 1, \dots, d

    A draw inverts the conditional distribution functions F_i one coordinate after the other. The
    map from noise to position is smooth and one to one, and its derivative, the weights included,
    is exact by implicit differentiation: no component is ever picked. So every estimator, and
    every kind of draws, applies to a mixture as to a normal.

    Args:
        example: A pytree of floating-point arrays, or of ``jax.ShapeDtypeStruct``, with the shapes
            of one position; its values are not used.
        num_components: Number of normals K.
        support: Where each leaf lives: one support for all, or a pytree of supports like the
            example; leaves that it leaves out are real. Default: all reals.

    Returns:
        A :class:`Family` with exact draws and densities; its entropy has no closed form. Params
        are ``{"logits": (K,), "mean": (K, d), "log_scale": (K, d)}``. Equal components would stay
        equal, so ``init`` spreads their means by one ``scale``, from its key, or from
        ``jax.random.key(0)`` without one.

    Raises:
        TypeError: If a leaf of the example is not floating-point.
        ValueError: If the example has no leaf, ``support`` does not fit it, or ``num_components``
            is below 1.

    Cost: O(K·d) for a density; a draw takes d root searches of 5 to 20 steps of O(K), in sequence.

    Examples:
        >>> family = vi.mixture(jnp.zeros(()), num_components=2)
        >>> params = {"logits": jnp.zeros(2), "mean": jnp.array([[-3.0], [3.0]]),
        ...           "log_scale": jnp.zeros((2, 1))}
        >>> print(f"{family.transform(params, jnp.array([0.0])):.4f}")
        0.0000

    References:
        :cite:t:`rosenblatt1952`; :cite:t:`figurnov2018`; :cite:t:`graves2016`.
    """
    positive_integer("num_components", num_components)
    return _mixture(layout(example, support), num_components)


@remembered
def _mixture(shape: Layout, num_components: int) -> Family:
    def init(key: PRNGKeyArray | None, center: Array, scale: Array) -> dict[str, Array]:
        key = jax.random.key(0) if key is None else key
        size = (num_components, shape.size)
        spread = jax.random.normal(key, size, "float32").astype(shape.dtype)
        scale = jnp.broadcast_to(scale.reshape(-1), size[1:])
        centered = spread - jnp.mean(spread, axis=0, keepdims=True)
        return {
            "logits": jnp.zeros(num_components, shape.dtype),
            "mean": jnp.broadcast_to(center, size) + centered * jnp.broadcast_to(scale, size),
            "log_scale": jnp.broadcast_to(jnp.log(scale), size),
        }

    def component_terms(params: dict[str, Array], flat: Array) -> Array:
        noise = (flat[None] - params["mean"]) * jnp.exp(-params["log_scale"])
        return -0.5 * (noise**2 + LOG_2PI) - params["log_scale"]

    def transform(params: dict[str, Array], noise: Array) -> Array:
        def coordinate(
            log_weights: Array, columns: tuple[Array, Array, Array]
        ) -> tuple[Array, Array]:
            mean, log_scale, eps = columns
            z = _quantile(jax.nn.log_softmax(log_weights), mean, log_scale, eps)
            term = -0.5 * ((z - mean) * jnp.exp(-log_scale)) ** 2 - log_scale
            return log_weights + term, z

        columns = params["mean"].T, params["log_scale"].T, noise
        return jax.lax.scan(coordinate, params["logits"], columns)[1]

    def log_prob(params: dict[str, Array], flat: Array) -> Scalar:
        log_joint = jax.nn.log_softmax(params["logits"])
        return jax.nn.logsumexp(log_joint + jnp.sum(component_terms(params, flat), axis=1))

    def entropy_term(params: dict[str, Array], noise: Array) -> Scalar:
        """Entropy of the noise, in closed form, plus the log-determinant at this draw."""
        log_volume = normal_log_prob(noise) - log_prob(params, transform(params, noise))
        return 0.5 * shape.size * (1 + LOG_2PI) + log_volume

    def init_at_modes(key: PRNGKeyArray, means: Array, sds: Array) -> dict[str, Array]:
        """Components dealt out to the normals in turn."""
        around = [init(key, mean, sd) for mean, sd in zip(means, sds, strict=True)]

        def deal(*leaves: Array) -> Array:
            return jnp.stack([leaves[k % len(leaves)][k] for k in range(num_components)])

        return jax.tree.map(deal, *around)

    return assemble(
        Core(
            "mixture",
            shape.size,
            shape.size,
            init,
            transform,
            log_prob,
            entropy_term,
            init_at_modes=init_at_modes,
        ),
        shape,
    )


def _quantile(log_weights: Array, mean: Array, log_scale: Array, noise: Scalar) -> Scalar:
    r"""The number z at which the mixture's distribution function is that of ``noise``.

    .. math:: \sum_k w_k \Phi\left(\frac{z - m_k}{e^{\ell_k}}\right) = \Phi(\varepsilon)

    Logarithms of the smaller tail are compared, so both tails keep their relative precision.
    Derivatives are exact up to the third.
    """
    # Above the median, mirror: the lower tail is then the small one.
    sign = jnp.where(noise > 0, -1, 1).astype(noise.dtype)
    mirrored = log_weights, sign * mean, log_scale, sign * noise
    z = _search(*jax.lax.stop_gradient(mirrored))
    # A Newton step at the root stays there, and doubles the order of the derivatives it carries.
    for _ in range(2):
        moved = z - _newton_step(z, *mirrored)
        z = jax.lax.stop_gradient(z - moved) + moved
    return sign * z


def _newton_step(
    z: Scalar, log_weights: Array, mean: Array, log_scale: Array, noise: Scalar
) -> Scalar:
    """(log F(z) − log Φ(ε)) divided by its slope."""
    standard = (z - mean) * jnp.exp(-log_scale)
    log_cdf = jax.nn.logsumexp(log_weights + jax.scipy.special.log_ndtr(standard))
    terms = log_weights + jax.scipy.stats.norm.logpdf(standard) - log_scale
    slope = jnp.exp(jax.nn.logsumexp(terms) - log_cdf)
    # Between components so far apart that no density is left, any z will do.
    slope = jnp.maximum(slope, jnp.finfo(slope.dtype).tiny)  # type: ignore[no-untyped-call]
    return (log_cdf - jax.scipy.special.log_ndtr(noise)) / slope


def _search(log_weights: Array, mean: Array, log_scale: Array, noise: Scalar) -> Scalar:
    """Newton steps; bisections where those leave the bracket or shrink too slowly."""
    ends = mean + jnp.exp(log_scale) * noise
    low, high = jnp.min(ends), jnp.max(ends)
    tolerance = 4 * jnp.finfo(noise.dtype).eps  # type: ignore[no-untyped-call]

    def unfinished(state: _Search) -> Array:
        _, _, z, step, count = state
        return (jnp.abs(step) > tolerance * (1 + jnp.abs(z))) & (count < _MAX_STEPS)

    def update(state: _Search) -> _Search:
        low, high, z, step, count = state
        newton_step = _newton_step(z, log_weights, mean, log_scale, noise)
        newton = z - newton_step
        low, high = jnp.where(newton_step < 0, z, low), jnp.where(newton_step < 0, high, z)
        good = (newton >= low) & (newton <= high) & (jnp.abs(newton_step) < 0.5 * jnp.abs(step))
        new = jnp.where(good, newton, 0.5 * (low + high))
        return low, high, new, new - z, count + 1

    state = low, high, 0.5 * (low + high), high - low, jnp.zeros((), jnp.int32)
    return jax.lax.while_loop(unfinished, update, state)[2]
