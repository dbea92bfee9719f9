"""Matplotlib figures of the areas' results; imported only when asked for.

Every function draws one result and returns what it drew on: the axes given as ``ax``, or those of a
new figure. Titles state what the numbers say, colors are told apart by color-blind readers, and
nothing global is changed: ``styled`` is the house style as a context, for figures of your own.
"""

from equipoise._types import legible as _legible
from equipoise.plot._attention import (
    attention_costs,
    attention_rows,
    attention_weights,
)
from equipoise.plot._cost import (
    cost_curves,
)
from equipoise.plot._cost_bounds import time_bounds
from equipoise.plot._cost_tree import (
    cost_tree,
)
from equipoise.plot._games import (
    critical_steps,
    eigenvalue_paths,
    step_rates,
)
from equipoise.plot._games_beyond import cycle_amplitude, stable_steps
from equipoise.plot._games_states import (
    basins,
    orbit_diagram,
    phase_plane,
)
from equipoise.plot._games_training import noise_floors, sharpness
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
from equipoise.plot._vi_checks import fit_history, rank_histograms

# In teaching order.
__all__ = [  # noqa: RUF022
    "phase_plane",
    "step_rates",
    "critical_steps",
    "eigenvalue_paths",
    "stable_steps",
    "cycle_amplitude",
    "noise_floors",
    "sharpness",
    "orbit_diagram",
    "basins",
    "attention_weights",
    "attention_rows",
    "attention_costs",
    "posterior_pair",
    "elbo_curve",
    "gradient_noise",
    "fit_history",
    "trust_report",
    "rank_histograms",
    "latent_map",
    "image_grid",
    "cost_curves",
    "cost_tree",
    "time_bounds",
    "COLORS",
    "styled",
    "new_axes",
    "new_grid",
]

_legible(globals())
