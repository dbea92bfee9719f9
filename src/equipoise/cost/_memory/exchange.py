"""How what devices send each other is compiled: together, and in pieces that are copied."""

from equipoise._jax.meshes.collectives import collective
from equipoise._jax.programs import Equation, aval


def summed(equation: Equation) -> object:
    """What sums over devices have in common that are made at once; None for all else."""
    found = collective(equation)
    if found is None or found.kind != "all-reduce":
        return None
    return equation.primitive.name, found.axes, found.group, aval(equation.invars[0]).dtype


def lies_apart(equation: Equation) -> bool:
    """Whether devices exchange pieces that do not lie in one: they are copied before and after."""
    found, p = collective(equation), equation.params
    axis = p.get("all_gather_dimension", p.get("scatter_dimension", 0))
    return found is not None and (found.kind == "all-to-all" or axis != 0)
