"""Matplotlib figures of the areas' results; imported only when asked for."""

from equipoise.plot._vi import (
    elbo_curve,
    gradient_noise,
    image_grid,
    latent_map,
    posterior_pair,
    trust_report,
)

__all__ = [
    "elbo_curve",
    "gradient_noise",
    "image_grid",
    "latent_map",
    "posterior_pair",
    "trust_report",
]
