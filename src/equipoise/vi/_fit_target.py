"""The log density of the flat vector, which every fit works with."""

from collections.abc import Callable

from equipoise._types import Array, Scalar
from equipoise.vi._family import Family
from equipoise.vi._terms import LogDensity, checked_density


def flat_log_density(
    where: str, log_density: LogDensity, family: Family
) -> Callable[[Array], Scalar]:
    """Log p(position) + log |∂position/∂flat| at a flat vector."""

    def flat_density(flat: Array) -> Scalar:
        density = checked_density(where, "log_density", log_density, flat.dtype)
        total: Array = density(family.unravel(flat)) + family.log_volume(flat)
        return total

    return flat_density
