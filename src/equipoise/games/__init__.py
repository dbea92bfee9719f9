"""Gradient play, and the exact step size where it stops converging."""

from equipoise.games._critical import (
    FLIP,
    FOLD,
    NEIMARK_SACKER,
    NOT_LOST,
    CriticalStep,
    critical_step_size,
)
from equipoise.games._flat import update_map
from equipoise.games._game import Game, general_sum, vector_field, zero_sum
from equipoise.games._gradient_play import (
    alternating,
    extragradient,
    momentum,
    optimistic,
    simultaneous,
)
from equipoise.games._implicit import proximal_point
from equipoise.games._maps import LyapunovExponents, lyapunov_exponents
from equipoise.games._maps_basins import Basins, basins
from equipoise.games._maps_cycle import Cycle, cycle
from equipoise.games._maps_orbits import OrbitDiagram, orbit_diagram, period, rotation_number
from equipoise.games._rule import Rule, State
from equipoise.games._simulate import simulate
from equipoise.games._spectrum import (
    CONVERGES,
    DIVERGES,
    NEUTRAL,
    Stability,
    spectral_radius,
    stability,
)

# In teaching order.
__all__ = [  # noqa: RUF022
    "zero_sum",
    "general_sum",
    "Game",
    "vector_field",
    "Rule",
    "State",
    "simultaneous",
    "alternating",
    "extragradient",
    "optimistic",
    "momentum",
    "proximal_point",
    "simulate",
    "update_map",
    "spectral_radius",
    "stability",
    "Stability",
    "CONVERGES",
    "NEUTRAL",
    "DIVERGES",
    "critical_step_size",
    "CriticalStep",
    "NOT_LOST",
    "FOLD",
    "FLIP",
    "NEIMARK_SACKER",
    "period",
    "cycle",
    "Cycle",
    "rotation_number",
    "lyapunov_exponents",
    "LyapunovExponents",
    "orbit_diagram",
    "OrbitDiagram",
    "basins",
    "Basins",
]
