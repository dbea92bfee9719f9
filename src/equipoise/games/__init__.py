r"""Gradient play, and the exact step size where it stops converging.

.. math::

    s_{t+1} = \Phi_\eta(s_t), \qquad
    \rho(\eta) = \max_i \Bigl|\lambda_i\Bigl(\frac{\partial \Phi_\eta}{\partial s}(s^*)\Bigr)\Bigr|,
    \qquad \text{attracting where } \rho(\eta) < 1

Make a game with ``zero_sum`` or ``general_sum``, choose an update rule Φ, and ask
``critical_step_size`` up to which step η play converges, and how it ceases to. ``simulate`` and
``sweep`` find the same from trajectories. Last come tools for any map: periods, rotation numbers,
Lyapunov exponents, orbit diagrams and basins of attraction.
"""

from equipoise.games._adjusted import consensus, lola, symplectic_adjustment
from equipoise.games._compare import Comparison, compare
from equipoise.games._critical import (
    FLIP,
    FOLD,
    NEIMARK_SACKER,
    NOT_LOST,
    CriticalStep,
    critical_step_size,
)
from equipoise.games._equilibrium import Equilibrium, find_equilibrium
from equipoise.games._extrapolated import alternating_extrapolation, primal_dual_hybrid
from equipoise.games._flat import update_map
from equipoise.games._game import Game, general_sum, vector_field, zero_sum
from equipoise.games._gradient_play import (
    alternating,
    extragradient,
    momentum,
    optimistic,
    simultaneous,
)
from equipoise.games._implicit import competitive, proximal_point
from equipoise.games._maps import LyapunovExponents, lyapunov_exponents
from equipoise.games._maps_basins import Basins, basins
from equipoise.games._maps_cycle import Cycle, cycle
from equipoise.games._maps_orbits import OrbitDiagram, orbit_diagram, period, rotation_number
from equipoise.games._rule import Rule, State
from equipoise.games._simulate import simulate
from equipoise.games._simulated import SimulatedCriticalStep, simulated_critical_step_size
from equipoise.games._stability import (
    CONVERGES,
    DIVERGES,
    NEUTRAL,
    Stability,
    spectral_radius,
    stability,
)
from equipoise.games._sweep import Sweep, sweep
from equipoise.games._wrapped import from_optax, lookahead

# In teaching order.
__all__ = [  # noqa: RUF022
    "zero_sum",
    "general_sum",
    "Game",
    "vector_field",
    "find_equilibrium",
    "Equilibrium",
    "Rule",
    "State",
    "simultaneous",
    "alternating",
    "extragradient",
    "optimistic",
    "momentum",
    "consensus",
    "symplectic_adjustment",
    "lola",
    "competitive",
    "proximal_point",
    "primal_dual_hybrid",
    "alternating_extrapolation",
    "lookahead",
    "from_optax",
    "simulate",
    "sweep",
    "Sweep",
    "update_map",
    "spectral_radius",
    "stability",
    "Stability",
    "CONVERGES",
    "NEUTRAL",
    "DIVERGES",
    "critical_step_size",
    "CriticalStep",
    "simulated_critical_step_size",
    "SimulatedCriticalStep",
    "compare",
    "Comparison",
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
