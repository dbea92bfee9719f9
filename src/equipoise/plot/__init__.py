"""Matplotlib figures of the areas' results; imported only when asked for."""

from equipoise.plot._attention import (
    attention_costs,
    attention_rows,
    attention_weights,
)
from equipoise.plot._cost import (
    cost_curves,
)
from equipoise.plot._games import (
    basins,
    critical_steps,
    eigenvalue_paths,
    orbit_diagram,
    phase_plane,
    step_rates,
)
from equipoise.plot._style import (
    COLORS,
    new_axes,
    new_grid,
    styled,
)
from equipoise.plot._vi import (
    elbo_curve,
    gradient_noise,
    image_grid,
    latent_map,
    posterior_pair,
    trust_report,
)

__all__ = [
    "COLORS",
    "attention_costs",
    "attention_rows",
    "attention_weights",
    "basins",
    "cost_curves",
    "critical_steps",
    "eigenvalue_paths",
    "elbo_curve",
    "gradient_noise",
    "image_grid",
    "latent_map",
    "new_axes",
    "new_grid",
    "orbit_diagram",
    "phase_plane",
    "posterior_pair",
    "step_rates",
    "styled",
    "trust_report",
]
