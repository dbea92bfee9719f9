"""Matplotlib figures of the areas' results; imported only when asked for."""

from equipoise.plot._cost import cost_curves

__all__ = ["cost_curves"]
