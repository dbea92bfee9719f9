"""Matplotlib figures of the areas' results; imported only when asked for."""

from equipoise.plot._style import COLORS, new_axes, new_grid, styled

__all__ = ["COLORS", "new_axes", "new_grid", "styled"]
