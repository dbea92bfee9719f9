"""Which equations compute again what a checkpoint did not keep."""

from equipoise._jax.programs import Equation, Program, held, opened


def recomputes(equation: Equation) -> bool:
    """Whether it computes again what a checkpoint did not keep, not to be merged with the first."""
    p = equation.params
    return bool(p.get("differentiated")) and bool(p.get("prevent_cse"))


def has_checkpoint(program: Program) -> bool:
    """Whether something is computed again in a program, those inside of it included."""
    equations = opened(program).eqns
    return any(recomputes(e) or any(map(has_checkpoint, held(e))) for e in equations)
