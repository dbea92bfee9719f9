"""A program in two: what some of its operands decide alone, and the rest, which takes that up."""

import math
from collections.abc import Sequence

from equipoise._jax.programs import (
    Atom,
    ClosedProgram,
    Equation,
    aval,
    closed,
    constants,
    is_array,
    is_literal,
    opened,
    rewritten,
)


def ahead(program: ClosedProgram, number: int) -> tuple[ClosedProgram, ClosedProgram]:
    """What the first ``number`` operands decide; and the program with that as operands before them.

    What is larger than all it is made of stays in the second part, as it is made where it is used.
    """
    body = opened(program)
    known: set[Atom] = set(body.invars[:number])
    early: list[Equation] = []
    late: list[Equation] = []
    for equation in body.eqns:
        read = [atom for atom in equation.invars if not is_literal(atom)]
        decided = bool(read) and known.issuperset(read) and not equation.effects
        if decided and _size(equation.outvars) <= _size(equation.invars):
            early.append(equation)
            known.update(equation.outvars)
        else:
            late.append(equation)
    used = {a for e in late for a in e.invars if not is_literal(a)}
    used.update(a for a in body.outvars if not is_literal(a))
    kept = [v for equation in early for v in equation.outvars if v in used]
    decides = body.invars[:number]
    first = rewritten(body, constvars=[], invars=decides, outvars=kept, eqns=early, effects=set())
    rest = rewritten(body, invars=[*kept, *body.invars], eqns=late)
    return closed(first, ()), closed(rest, constants(program))


def _size(atoms: Sequence[Atom]) -> int:
    """How many numbers the largest of the arrays has."""
    return max((math.prod(map(int, aval(a).shape)) for a in atoms if is_array(a)), default=0)
