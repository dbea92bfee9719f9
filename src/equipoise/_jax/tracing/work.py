"""About how much work a program is, where its order of magnitude is all that counts."""

import math

from equipoise._jax.programs import (
    COND,
    SCAN,
    Atom,
    Equation,
    Program,
    aval,
    branches,
    held,
    is_array,
    opened,
    scan,
)

# What takes a multiple of the matrices' size that grows with it.
_CUBIC = ("cholesky", "eig", "eigh", "householder_product", "lu", "qr", "svd")
_ALONE = 256.0  # operations of a matrix of which jaxlib leaves a batch of hundreds to one thread


def work(program: Program) -> float:
    """Numbers that its equations read or write, whichever are more, and products term by term.

    A loop whose length only values decide counts once, a branch as its dearest side.
    """
    return sum(map(_work_of, opened(program).eqns))


def factorizes(program: Program) -> bool:
    """Whether it factorizes matrices so large that LAPACK divides a batch of them among threads."""
    return any(map(_factorizes, opened(program).eqns))


def _factorizes(equation: Equation) -> bool:
    inside = any(map(factorizes, held(equation)))
    alone = equation.primitive.name in (*_CUBIC, "triangular_solve")
    return inside or (alone and _work_of(equation) > _ALONE)


def _work_of(equation: Equation) -> float:
    name, params = equation.primitive.name, equation.params
    if name == SCAN:
        return int(scan(equation).length) * work(scan(equation).body)
    if name == COND:
        return max(map(work, branches(equation)))
    touched = max(map(_size, [*equation.invars, *equation.outvars]), default=0)
    if name == "dot_general":
        (summed, _), _ = params["dimension_numbers"]
        shape = aval(equation.invars[0]).shape
        return _size(equation.outvars[0]) * math.prod(int(shape[axis]) for axis in summed)
    if name == "conv_general_dilated":
        kernel = equation.invars[1]
        features = int(aval(kernel).shape[params["dimension_numbers"].rhs_spec[0]])
        return _size(equation.outvars[0]) * _size(kernel) // max(features, 1)
    if name == "triangular_solve":
        return _size(equation.outvars[0]) * int(aval(equation.invars[0]).shape[-1])
    if name in _CUBIC:
        return touched * int(aval(equation.invars[0]).shape[-1])
    return max(touched, sum(map(work, held(equation))))


def _size(atom: Atom) -> int:
    return math.prod(map(int, aval(atom).shape)) if is_array(atom) else 0
