"""Symbolic work, depth and memory of any JAX function."""

from equipoise.cost._analyze import Cost, analyze
from equipoise.cost._compare import Comparison, compare
from equipoise.cost._crossover import Crossover, crossover
from equipoise.cost._dependencies import Dependencies, dependencies
from equipoise.cost._expression import Expression
from equipoise.cost._paths import path_length
from equipoise.cost._training import TrainingCost, analyze_training

__all__ = [
    "Comparison",
    "Cost",
    "Crossover",
    "Dependencies",
    "Expression",
    "TrainingCost",
    "analyze",
    "analyze_training",
    "compare",
    "crossover",
    "dependencies",
    "path_length",
]
