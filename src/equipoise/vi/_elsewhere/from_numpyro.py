"""The posterior of a NumPyro model as the three arguments of a fit."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._check import at, describe, type_error, value_error
from equipoise._types import Array, Scalar
from equipoise.vi._supports.bijectors import interval, ordered, real, simplex
from equipoise.vi._supports.cholesky import cholesky_correlation
from equipoise.vi._supports.support import Support

if TYPE_CHECKING:
    from numpyro.distributions.constraints import Constraint

_Position = dict[str, Array]


@at("vi.from_numpyro")
def from_numpyro(
    model: Callable[..., object], /, *args: object, **kwargs: object
) -> tuple[Callable[[_Position], Scalar], _Position, dict[str, Support]]:
    r"""The posterior of a NumPyro model, ready for :func:`fit`.

    .. math::

        \log p(z, x) = \sum_{\text{sites } s} \log p(z_s \mid \text{parents})
        + \sum_{\text{observed } o} \log p(x_o \mid \text{parents})

    A position is a dictionary of the latent sites by name, in their own units. Every constraint of
    NumPyro has a support here: those of this library where it has the same set, NumPyro's own
    transform for others, such as covariance matrices. NumPyro is imported at the call.

    Args:
        model: A NumPyro model: a function with ``numpyro.sample`` statements, or one in handlers.
        *args: What it is called with, data included.
        **kwargs: Keywords that it is called with.

    Returns:
        ``(log_density, example, support)``. ``vi.fit(log_density, example, key,
        support=support)`` fits it. Data that the model is called with stay arrays, so that a fit
        of the same model to other data of the same shape compiles nothing again.

    Raises:
        TypeError: If ``model`` is not callable.
        ValueError: If the model has no latent site, a discrete one, a ``numpyro.param``, or a plate
            that subsamples, or if the bounds or the shape of a site depend on another site.
        ModuleNotFoundError: If NumPyro is not installed.

    Cost: the model runs twice, without compilation.

    Examples:
        >>> import numpyro, numpyro.distributions as dist
        >>> def model(y):
        ...     scale = numpyro.sample("scale", dist.HalfNormal(5.0))
        ...     numpyro.sample("y", dist.Normal(0.0, scale), obs=y)
        >>> log_density, example, support = vi.from_numpyro(model, jnp.array([1.0, -2.0, 3.0]))
        >>> fit = vi.fit(log_density, example, jax.random.key(0), support=support)
        >>> print(support["scale"].name, bool(fit.trusted))
        positive True

    References:
        :cite:t:`phan2019`.
    """
    if not callable(model):
        raise type_error("model", "must be a NumPyro model, a function", model)
    from numpyro.handlers import seed
    from numpyro.infer.util import log_density as log_joint

    latent, again = (_latent_sites(model, args, kwargs, rng_seed) for rng_seed in (0, 1))
    if not latent:
        raise value_error("model", "must have a latent site", "none", "Is every site observed?")
    for name in latent.keys() | again.keys():
        _check_fixed(name, latent.get(name), again.get(name))

    def log_density(position: _Position) -> Scalar:
        # Sites of no density, such as those of random keys, draw what the seed gives.
        value, _ = log_joint(seed(model, 0), args, kwargs, position)
        return jnp.asarray(value)

    example = {name: jnp.asarray(value) for name, (_, value) in latent.items()}
    return log_density, example, {name: _support(c) for name, (c, _) in latent.items()}


def _latent_sites(
    model: Callable[..., object],
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    rng_seed: int,
) -> dict[str, tuple["Constraint", Array]]:
    """Constraint and value of every latent site, at a random place."""
    from numpyro.handlers import seed, substitute, trace
    from numpyro.infer import init_to_uniform

    anywhere = substitute(seed(model, rng_seed), substitute_fn=init_to_uniform)
    found = {}
    for name, site in trace(anywhere).get_trace(*args, **kwargs).items():
        if site["type"] == "param":
            raise value_error(
                "model",
                "must have a prior for every unknown",
                f"numpyro.param({name!r})",
                "Sample it, or fix it with numpyro.handlers.substitute.",
            )
        if site["type"] == "plate" and len(site["value"]) < site["args"][0]:
            raise value_error(
                "model",
                "must see all of its data",
                f"plate {name!r}, which draws {len(site['value'])} of {site['args'][0]}",
                "Leave `subsample_size` out.",
            )
        if site["type"] != "sample" or site["is_observed"]:
            continue
        if site["fn"].support.is_discrete:
            raise value_error(
                "model",
                "must have continuous latent sites",
                f"{name!r}, which is {type(site['fn']).__name__}",
                "Sum it out, as numpyro.distributions.MixtureSameFamily does, or observe it.",
            )
        found[name] = site["fn"].support, site["value"]
    return found


def _check_fixed(
    name: str,
    site: tuple["Constraint", Array] | None,
    again: tuple["Constraint", Array] | None,
) -> None:
    """The site is there whatever the others are, with the same shape and bounds."""
    if site is None or again is None or jnp.shape(site[1]) != jnp.shape(again[1]):
        raise value_error(
            "model", "must have the same sites at every position", f"{name!r}, which changes"
        )
    bounds, others = jax.tree.leaves(site[0]), jax.tree.leaves(again[0])
    if type(site[0]) is not type(again[0]) or not all(map(np.array_equal, bounds, others)):
        raise value_error(
            "model",
            "must have sites whose bounds do not depend on other sites",
            f"{name!r} in {site[0]} at one position and {again[0]} at another",
            "Sample it on a fixed set, such as Uniform(0, 1), and scale it.",
        )


def _support(constraint: "Constraint") -> Support:
    """The same set here, or NumPyro's own transform onto it."""
    from numpyro.distributions import constraints

    # Axes that belong together make no difference to a map that acts on each entry or vector.
    while hasattr(constraint, "base_constraint"):
        constraint = constraint.base_constraint
    ours = (
        (constraints.real, real),
        (constraints.simplex, simplex),
        (constraints.ordered_vector, ordered),
        (constraints.corr_cholesky, cholesky_correlation),
    )
    for one, support in ours:
        if constraint == one:
            return support()
    low = getattr(constraint, "lower_bound", -math.inf)
    high = getattr(constraint, "upper_bound", math.inf)
    if np.ndim(low) == np.ndim(high) == 0 and (low, high) != (-math.inf, math.inf):
        return interval(float(low), float(high))
    kind = type(constraint)
    return _transformed(constraint) if vars(constraint) else _of_kind(kind)  # type: ignore[arg-type]


@functools.cache
def _of_kind(kind: type["Constraint"]) -> Support:
    """The one support of constraints without parameters, so that equal models compile once."""
    return _transformed(kind())


def _transformed(constraint: "Constraint") -> Support:
    from numpyro.distributions import biject_to

    transform = biject_to(constraint)
    return Support(
        describe(constraint),
        lambda shape: tuple(transform.inverse_shape(shape)),
        lambda u: transform(u),  # NumPyro's transforms cannot be hashed, functions can
        lambda x: transform.inv(x),
        lambda u: jnp.sum(transform.log_abs_det_jacobian(u, transform(u))),
        lambda x: jnp.all(constraint(x)),
    )
