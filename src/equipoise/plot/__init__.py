"""Matplotlib figures of the areas' results; imported only when asked for."""

from equipoise.plot._games import (
    basins,
    critical_steps,
    eigenvalue_paths,
    orbit_diagram,
    phase_plane,
    step_rates,
)

__all__ = [
    "basins",
    "critical_steps",
    "eigenvalue_paths",
    "orbit_diagram",
    "phase_plane",
    "step_rates",
]
