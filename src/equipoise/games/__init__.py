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

from equipoise._types import legible as _legible
from equipoise.games._beyond.normal_form import normal_form
from equipoise.games._beyond.outcome import NormalForm, Outcome
from equipoise.games._beyond.stable import StableStepSizes, stable_step_sizes
from equipoise.games._critical.compare import Comparison, compare
from equipoise.games._critical.critical import critical_step_size
from equipoise.games._critical.critical_step import (
    FLIP,
    FOLD,
    NEIMARK_SACKER,
    NOT_LOST,
    CriticalStep,
    Kind,
)
from equipoise.games._critical.simulated import SimulatedCriticalStep, simulated_critical_step_size
from equipoise.games._maps.basins import Basins, basins
from equipoise.games._maps.cycle import Cycle, cycle
from equipoise.games._maps.diagram import OrbitDiagram, orbit_diagram
from equipoise.games._maps.lyapunov import LyapunovExponents, lyapunov_exponents
from equipoise.games._maps.orbits import period, rotation_number
from equipoise.games._noise.mean_square import (
    MeanSquareCriticalStep,
    mean_square_critical_step_size,
)
from equipoise.games._noise.noise_floor import NoiseFloor, noise_floor
from equipoise.games._optimizers.from_optax import from_optax
from equipoise.games._play.simulate import simulate
from equipoise.games._play.sweep import sweep
from equipoise.games._play.sweep_result import Sweep
from equipoise.games._rules.adjusted import consensus, lola, symplectic_adjustment
from equipoise.games._rules.extrapolated import alternating_extrapolation, primal_dual_hybrid
from equipoise.games._rules.game import Game, general_sum, vector_field, zero_sum
from equipoise.games._rules.gradient_play import (
    alternating,
    extragradient,
    momentum,
    optimistic,
    simultaneous,
)
from equipoise.games._rules.implicit import competitive, proximal_point
from equipoise.games._rules.rule import Rule, State
from equipoise.games._rules.verdict import CONVERGES, DIVERGES, NEUTRAL, UNDEFINED, Verdict
from equipoise.games._rules.wrapped import lookahead
from equipoise.games._sampled.sampled import sampled
from equipoise.games._spectrum.arnoldi import DominantEigenvalues
from equipoise.games._spectrum.dominant import dominant_eigenvalues
from equipoise.games._spectrum.equilibrium import Equilibrium, find_equilibrium
from equipoise.games._spectrum.stability import Stability, spectral_radius, stability
from equipoise.games._spectrum.update_map import UpdateMap, update_map
from equipoise.games._training.critical import critical_learning_rate
from equipoise.games._training.result import CriticalLearningRate

# In teaching order.
__all__ = [  # noqa: RUF022
    "zero_sum",
    "general_sum",
    "sampled",
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
    "UpdateMap",
    "dominant_eigenvalues",
    "DominantEigenvalues",
    "spectral_radius",
    "stability",
    "Stability",
    "Verdict",
    "CONVERGES",
    "NEUTRAL",
    "DIVERGES",
    "UNDEFINED",
    "critical_step_size",
    "CriticalStep",
    "simulated_critical_step_size",
    "SimulatedCriticalStep",
    "mean_square_critical_step_size",
    "MeanSquareCriticalStep",
    "noise_floor",
    "NoiseFloor",
    "critical_learning_rate",
    "CriticalLearningRate",
    "stable_step_sizes",
    "StableStepSizes",
    "normal_form",
    "NormalForm",
    "Outcome",
    "compare",
    "Comparison",
    "Kind",
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

_legible(globals())
