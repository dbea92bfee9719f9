r"""Symbolic work, depth and memory of any JAX function.

.. math::

    \text{cost}(n, d, \dots) = \sum_i c_i\, n^{a_i} d^{b_i} \cdots,
    \qquad c_i \text{ exact}

``analyze`` reads a function without running it and counts in the sizes that you name;
``analyze_training`` counts the forward and the backward pass and the bytes kept between them.
``fits`` says whether a device's memory holds a program, ``best_checkpoint`` how training fits, and
``Cost.by`` which line costs what. ``roofline`` says how long it takes at best, and at which line;
on a mesh ``Cost.per_device`` is what one device does.
``compare`` and ``crossover`` say from which size on one program costs more than another.
``dependencies`` and ``path_length`` say which outputs read which inputs, and over how long a path.
"""

from equipoise._types import legible as _legible
from equipoise.cost._analyze import Cost, analyze
from equipoise.cost._breakdown import Breakdown, Communication
from equipoise.cost._checkpoint import Checkpoints, best_checkpoint
from equipoise.cost._compare import Comparison, compare
from equipoise.cost._crossover import Crossover, crossover
from equipoise.cost._dependencies import Dependencies, dependencies
from equipoise.cost._expression.expression import Expression
from equipoise.cost._fits import Fits, fits
from equipoise.cost._kinds import Larger, Pattern
from equipoise.cost._machine.devices import Device, measure_device
from equipoise.cost._paths import path_length
from equipoise.cost._roofline import Bounds, Roofline, roofline
from equipoise.cost._training import TrainingCost, analyze_training

# In teaching order.
__all__ = [  # noqa: RUF022
    "analyze",
    "Cost",
    "Breakdown",
    "Communication",
    "Expression",
    "analyze_training",
    "TrainingCost",
    "fits",
    "Fits",
    "best_checkpoint",
    "Checkpoints",
    "roofline",
    "Roofline",
    "Bounds",
    "Device",
    "measure_device",
    "compare",
    "Comparison",
    "crossover",
    "Crossover",
    "Larger",
    "dependencies",
    "Dependencies",
    "Pattern",
    "path_length",
]

_legible(globals())
