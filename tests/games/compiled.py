"""Public functions, each call compiled as one program: quicker than one program an operation."""

import functools

import jax

from equipoise import games


def compiled(function):
    """The function, whose arrays are constants of the program; what it raises is the same."""

    @functools.wraps(function)
    def call(*args, **options):
        return jax.jit(lambda: function(*args, **options))()

    return call


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
