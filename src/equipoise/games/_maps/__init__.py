"""Orbits of any map: cycles, rotation, exponents and basins."""
