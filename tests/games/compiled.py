"""Public functions of games, each call compiled as one program."""

from equipoise import games
from tests.compiled import compiled

basins = compiled(games.basins)
cycle = compiled(games.cycle)
dominant_eigenvalues = compiled(games.dominant_eigenvalues)
find_equilibrium = compiled(games.find_equilibrium)
lyapunov_exponents = compiled(games.lyapunov_exponents)
orbit_diagram = compiled(games.orbit_diagram)
period = compiled(games.period)
rotation_number = compiled(games.rotation_number)
simulate = compiled(games.simulate)
spectral_radius = compiled(games.spectral_radius)
stability = compiled(games.stability)
