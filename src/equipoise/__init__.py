"""The mathematics of balance in JAX.

* :mod:`equipoise.attention`: exact softmax attention in linear memory, differentiable to any order.
* :mod:`equipoise.vi`: variational inference that measures itself.
* :mod:`equipoise.games`: gradient play, and the exact step size where it stops converging.
* :mod:`equipoise.cost`: symbolic work, depth and memory of any JAX function.
* :mod:`equipoise.layers`: the sequence layers that the other areas are shown on.
* :mod:`equipoise.plot`: figures of their results.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from equipoise import attention, cost, games, layers, plot, vi

__version__ = "0.1.0"
__all__ = ["__version__", "attention", "cost", "games", "layers", "plot", "vi"]


def __getattr__(name: str) -> ModuleType:
    """Load an area when it is first asked for, so that the import itself stays light."""
    if name in __all__:
        return import_module(f"equipoise.{name}")
    raise AttributeError(f"module 'equipoise' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
