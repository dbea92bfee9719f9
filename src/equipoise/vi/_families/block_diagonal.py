"""Independent blocks of coordinates, each a normal with any covariance."""

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from equipoise._check import at, value_error
from equipoise._types import Array, PRNGKeyArray, PyTree, Scalar
from equipoise.vi._families.core import Core, assemble
from equipoise.vi._families.family import Family, Params, remembered
from equipoise.vi._families.full_rank import from_scale_tril, scale_tril
from equipoise.vi._families.layout import Layout, layout
from equipoise.vi._families.mean_field import normal_entropy, normal_log_prob
from equipoise.vi._supports.support import Support


@at("vi.block_diagonal")
def block_diagonal(
    example: PyTree,
    *,
    blocks: Sequence[int] | None = None,
    support: PyTree | Support | None = None,
) -> Family:
    r"""Independent blocks of coordinates, each a normal with any covariance.

    .. math::

        q(z) = \prod_b \mathcal{N}(z_b \mid m_b, L_b L_b^\top), \qquad
        L_b = \operatorname{diag}(e^{\ell_b})\,(I + U_b)

    Args:
        example: A pytree of floating-point arrays, or of ``jax.ShapeDtypeStruct``, with the shapes
            of one position; its values are not used.
        blocks: Sizes of the blocks, consecutive flat coordinates in the order of
            ``jax.tree.leaves``. Default: one block for each leaf.
        support: Where each leaf lives: one support for all, or a pytree of supports like the
            example; leaves that it leaves out are real. Default: all reals.

    Returns:
        A :class:`Family` with params ``{"mean": m, "log_scale": ℓ, "lower": (U_1, ...)}``, where
        each U_b has its d_b(d_b − 1)/2 entries row by row, as in :func:`full_rank`.

    Raises:
        TypeError: If a leaf of the example is not floating-point.
        ValueError: If the example has no leaf, ``support`` does not fit it, or ``blocks`` are not
            positive numbers that sum to the number of flat coordinates.

    Cost: O(Σ d_b²) parameters and time for a draw or a density.

    Examples:
        >>> family = vi.block_diagonal({"w": jnp.zeros(3), "b": jnp.zeros(2)})
        >>> print([u.shape for u in family.init()["lower"]])
        [(1,), (3,)]

    References:
        :cite:t:`tan2018`.
    """
    shape = layout(example, support)
    sizes = tuple(math.prod(s) for s in shape.flat_shapes) if blocks is None else tuple(blocks)
    if min(sizes) < (blocks is not None) or sum(sizes) != shape.size:
        raise value_error(
            "blocks",
            f"must be positive and sum to the {shape.size} flat coordinates",
            str(sizes),
        )
    return _block_diagonal(shape, sizes)


@remembered
def _block_diagonal(shape: Layout, sizes: tuple[int, ...]) -> Family:
    d = shape.size
    bounds = list(itertools.pairwise([0, *itertools.accumulate(sizes)]))

    def init(key: PRNGKeyArray | None, center: Array, scale: Array) -> Params:
        if scale.ndim == 2:
            parts = [from_scale_tril(center[a:b], scale[a:b, a:b]) for a, b in bounds]
            log_scale = jnp.concatenate([part["log_scale"] for part in parts])
            lower = tuple(part["lower"] for part in parts)
        else:
            log_scale = jnp.broadcast_to(jnp.log(scale), (d,))
            lower = tuple(jnp.zeros(n * (n - 1) // 2, shape.dtype) for n in sizes)
        return {"mean": center, "log_scale": log_scale, "lower": lower}

    def factors(params: Params) -> list[Array]:
        return [
            scale_tril({"log_scale": params["log_scale"][a:b], "lower": lower})
            for (a, b), lower in zip(bounds, params["lower"], strict=True)
        ]

    def transform(params: Params, noise: Array) -> Array:
        pairs = zip(factors(params), bounds, strict=True)
        return params["mean"] + jnp.concatenate([factor @ noise[a:b] for factor, (a, b) in pairs])

    def log_prob(params: Params, flat: Array) -> Scalar:
        centered = flat - params["mean"]
        noise = [
            jax.scipy.linalg.solve_triangular(factor, centered[a:b], lower=True)
            for factor, (a, b) in zip(factors(params), bounds, strict=True)
        ]
        return normal_log_prob(jnp.concatenate(noise)) - jnp.sum(params["log_scale"])

    def moments(params: Params) -> tuple[Array, Array]:
        return params["mean"], jax.scipy.linalg.block_diag(*factors(params))

    core = Core(
        "block_diagonal",
        d,
        d,
        init,
        transform,
        log_prob,
        entropy=normal_entropy,
        moments=moments,
        takes_factor=True,
    )
    return assemble(core, shape)
