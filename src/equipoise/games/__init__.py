"""Gradient play, and the exact step size where it stops converging."""

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
from equipoise.games._rule import Rule, State
from equipoise.games._simulate import simulate

__all__ = [
    "Game",
    "Rule",
    "State",
    "alternating",
    "extragradient",
    "general_sum",
    "momentum",
    "optimistic",
    "proximal_point",
    "simulate",
    "simultaneous",
    "update_map",
    "vector_field",
    "zero_sum",
]
