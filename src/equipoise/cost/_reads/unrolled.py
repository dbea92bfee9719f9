"""A program run on abstract arrays, loops unrolled."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from equipoise._jax.evaluation import bind, implementation, run
from equipoise._jax.programs import (
    COND,
    SCAN,
    SHARD_MAP,
    WHILE,
    Equation,
    Program,
    While,
    aval,
    branches,
    called,
    scan,
    while_loop,
)
from equipoise.cost._reads.propagation import everything
from equipoise.cost._reads.reach import (
    Reach,
    Value,
    anything,
    depend,
    join,
    later,
    row,
    same,
    stack,
)
from equipoise.cost._reads.table import RULES

_LONGEST_LOOP = 4096


class Walk:
    """One run over a program; ``notes`` names what had to be assumed.

    With ``counts``, the steps of a dependency are the loop iterations on the way.
    """

    def __init__(self, n: int, *, counts: bool):
        self.n, self.counts = n, counts
        self.notes: dict[str, None] = {}

    def run(self, program: Program, args: Sequence[Value]) -> list[Value]:
        """The results of a program on abstract or concrete arguments."""
        return run(program, args, self._equation)

    def _iteration(self, program: Program, args: Sequence[Value]) -> list[Value]:
        return [later(x, self.counts) for x in self.run(program, args)]

    def _equation(self, equation: Equation, xs: list[Value]) -> Sequence[Value]:
        """The results of one primitive."""
        name, abstract = equation.primitive.name, any(isinstance(x, Reach) for x in xs)
        control: dict[str, Callable[[Equation, list[Value]], list[Value]]] = {
            SCAN: self._scan,
            WHILE: self._while,
            COND: self._cond,
        }
        if name in control and abstract:
            return control[name](equation, xs)
        body = None if name == SHARD_MAP else called(equation)
        if body is not None:
            return self.run(body, xs)
        if not abstract:
            return bind(equation, [jnp.asarray(x) for x in xs])
        rule = RULES.get(name)
        body = implementation(equation) if rule is None else None
        if body is not None:
            return self.run(body, xs)
        results = None if rule is None else rule(equation, xs, self.n)
        if results is None:
            why = "not known" if rule is None else "indices depend on the input"
            self.notes[f"{name}: {why}, every result reads every operand"] = None
            return everything(equation, xs, self.n)
        return results

    def _scan(self, equation: Equation, xs: list[Value]) -> list[Value]:
        """As many copies of the body as it has iterations."""
        layout = scan(equation)
        first, carried, length = layout.num_constants, layout.num_carried, int(layout.length)
        consts, carry, stacked = xs[:first], xs[first : first + carried], xs[first + carried :]
        outputs: list[list[Value]] = [[] for _ in range(length)]
        for t in reversed(range(length)) if layout.reverse else range(length):
            results = self._iteration(layout.body, [*consts, *carry, *(row(x, t) for x in stacked)])
            carry, outputs[t] = results[:carried], results[carried:]
        built = enumerate(equation.outvars[carried:])
        return [*carry, *(stack([o[i] for o in outputs], aval(v), self.n) for i, v in built)]

    def _while(self, equation: Equation, xs: list[Value]) -> list[Value]:
        """Iterations while the condition is known; then what holds however many there are."""
        layout = while_loop(equation)
        of_test, rest = xs[: layout.num_test_constants], xs[layout.num_test_constants :]
        of_body, carry = rest[: layout.num_body_constants], rest[layout.num_body_constants :]
        for _ in range(_LONGEST_LOOP):
            (again,) = self.run(layout.test, [*of_test, *carry])
            if isinstance(again, Reach):
                return self._settle(layout, of_test, of_body, carry)
            if not again:
                return carry
            carry = self._iteration(layout.body, [*of_body, *carry])
        self.notes[f"while: more than {_LONGEST_LOOP} iterations, taken as any number"] = None
        return self._settle(layout, of_test, of_body, carry)

    def _settle(
        self, layout: While, of_test: list[Value], of_body: list[Value], carry: list[Value]
    ) -> list[Value]:
        """The least that is true after any number of iterations."""
        self.notes["while: the number of iterations depends on the input"] = None
        while True:
            reads = anything(self.run(layout.test, [*of_test, *carry]), self.n)
            after = self._iteration(layout.body, [*of_body, *carry])
            pairs = zip(carry, after, strict=True)
            joined = [depend(join(a, b, self.n), reads, self.n) for a, b in pairs]
            if all(same(a, b, self.n) for a, b in zip(carry, joined, strict=True)):
                return joined
            carry = joined

    def _cond(self, equation: Equation, xs: list[Value]) -> list[Value]:
        """The branch that is taken, or what holds in all of them."""
        which, *operands = xs
        programs = branches(equation)
        if not isinstance(which, Reach):
            chosen = int(np.clip(int(which), 0, len(programs) - 1))
            return self.run(programs[chosen], operands)
        first, *others = [self.run(program, operands) for program in programs]
        for other in others:
            first = [join(a, b, self.n) for a, b in zip(first, other, strict=True)]
        return [depend(x, which.steps, self.n) for x in first]
