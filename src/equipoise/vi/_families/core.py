"""Our own families: each a distribution of flat vectors, put on positions in one way."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from equipoise._check import at, positive_integer, random_key, value_error
from equipoise._types import Array, PRNGKeyArray, PyTree, Scalar
from equipoise.vi._families.draws import independent
from equipoise.vi._families.family import (
    ABSENT,
    Family,
    InitAtModes,
    Moments,
    Natural,
    Params,
    check_params,
    one_program,
)
from equipoise.vi._families.layout import Layout
from equipoise.vi._supports.support import REAL


class Core(NamedTuple):
    """A family of flat vectors; the functions are as in :class:`Family`.

    ``init`` takes a key or None, a flat vector for the center, and the scale as an array. Either
    the entropy is closed, or ``entropy_term`` has a part of it that is not.
    """

    name: str
    dimension: int
    noise_size: int
    init: Callable[[PRNGKeyArray | None, Array, Array], Params]
    transform: Callable[[Params, Array], Array]
    log_prob: Callable[[Params, Array], Scalar]
    entropy_term: Callable[[Params, Array], Scalar] | None = None
    entropy: Callable[[Params], Scalar] | None = None
    moments: Moments | None = None
    natural: Natural | None = None
    takes_factor: bool = False
    init_at_modes: InitAtModes | None = None


def assemble(core: Core, shape: Layout) -> Family:
    """The family of positions whose flat vectors have the distribution ``core``."""
    where = f"vi.{core.name}"

    @one_program
    def init(
        key: PRNGKeyArray | None = None, *, position: PyTree = None, scale: PyTree = 1.0
    ) -> Params:
        with at(where):
            if key is not None:
                random_key("key", key)
            zero = jnp.zeros(core.dimension, shape.dtype)
            center = zero if position is None else shape.ravel(position)
            return core.init(key, center, jnp.asarray(scale, shape.dtype))

    @one_program
    def transform(params: Params, noise: Array) -> PyTree:
        return shape.unravel(core.transform(params, noise))

    def sample(params: Params, key: PRNGKeyArray, num_samples: int) -> PyTree:
        with at(where):
            random_key("key", key)
            return drawn(params, key, positive_integer("num_samples", num_samples))

    @functools.partial(one_program, static_argnums=2)
    def drawn(params: Params, key: PRNGKeyArray, num_samples: int) -> PyTree:
        check_params(family, params)
        noise = independent(key, num_samples, core.noise_size, shape.dtype)
        return jax.vmap(transform, in_axes=(None, 0))(params, noise)

    @one_program
    def log_prob(params: Params, position: PyTree) -> Scalar:
        with at(where):
            check_params(family, params)
            inside, flat = shape.inside(position)
        log_q = core.log_prob(params, flat) - shape.log_volume(flat)
        return jnp.where(inside, log_q, -jnp.inf)

    @one_program
    def entropy(params: Params) -> Scalar:
        bent = [s.name for s in shape.supports if s is not REAL]
        if core.entropy is None or bent:
            with at(where):
                raise value_error(
                    "entropy",
                    "must have a closed form",
                    f"{core.name} on {', '.join(bent)}" if bent else core.name,
                    "Estimate it: vi.elbo of a log density that is 0 everywhere is the entropy.",
                )
        return core.entropy(params)

    def closed_term(params: Params, noise: Array) -> Scalar:
        closed: PyTree = core.entropy
        return closed(params)

    @one_program
    def ravel(position: PyTree) -> Array:
        with at(where):
            return shape.ravel(position)

    family = Family(
        name=core.name,
        init=init,
        sample=sample,
        log_prob=log_prob,
        transform=transform,
        noise_size=core.noise_size,
        entropy=entropy,
        takes_factor=core.takes_factor,
        dimension=core.dimension,
        positions=shape,
        ravel=ravel,
        unravel=one_program(shape.unravel),
        log_volume=one_program(shape.log_volume),
        transform_flat=core.transform,
        log_prob_flat=core.log_prob,
        entropy_term=core.entropy_term or closed_term,
        flat_entropy=core.entropy or ABSENT,
        moments=core.moments or ABSENT,
        from_moments=functools.partial(core.init, None) if core.natural else ABSENT,
        natural=core.natural,
        init_at_modes=core.init_at_modes,
        placed=True,
    )
    return family
