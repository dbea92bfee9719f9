"""A program run on abstract arrays, loops unrolled."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend import core

from equipoise.cost._implementation import CALLS, implementation
from equipoise.cost._propagation import RULES, everything
from equipoise.cost._reach import Reach, anything, depend, join, later, lift

LONGEST_LOOP = 4096


class Walk:
    """One run over a program; ``notes`` names what had to be assumed.

    With ``counts``, the steps of a dependency are the loop iterations on the way.
    """

    def __init__(self, n: int, *, counts: bool):
        self.n, self.counts = n, counts
        self.notes: dict[str, None] = {}

    def run(self, closed: Any, args: list[Any]) -> list[Any]:
        """The results of a program on abstract or concrete arguments."""
        jaxpr = getattr(closed, "jaxpr", closed)
        env: dict[Any, Any] = dict(zip(jaxpr.constvars, getattr(closed, "consts", ()), strict=True))
        env.update(zip(jaxpr.invars, args, strict=True))

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, core.Literal) else env[atom]

        for eqn in jaxpr.eqns:
            results = self.equation(eqn, [read(atom) for atom in eqn.invars])
            env.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def equation(self, eqn: Any, xs: list[Any]) -> list[Any]:
        """The results of one primitive."""
        name = eqn.primitive.name
        if name in ("scan", "while", "cond"):
            if any(isinstance(x, Reach) for x in xs):
                return getattr(self, name + "_")(eqn, xs)
        elif name != "shard_map":
            for parameter in CALLS:
                if parameter in eqn.params and eqn.params[parameter] is not None:
                    return self.run(eqn.params[parameter], xs)
        if not any(isinstance(x, Reach) for x in xs):
            found = eqn.primitive.bind(*map(jnp.asarray, xs), **eqn.params)
            return list(found) if eqn.primitive.multiple_results else [found]
        rule = RULES.get(name)
        body = implementation(eqn) if rule is None else None
        if body is not None:
            return self.run(body, xs)
        results = None if rule is None else rule(eqn, xs, self.n)
        if results is None:
            why = "not known" if rule is None else "indices depend on the input"
            self.notes[f"{name}: {why}, every result reads every operand"] = None
            return everything(eqn, xs, self.n)
        return results

    def scan_(self, eqn: Any, xs: list[Any]) -> list[Any]:
        """As many copies of the body as it has iterations."""
        p, n = eqn.params, self.n
        body = getattr(p["jaxpr"], "jaxpr", p["jaxpr"])
        # The order is constants, carry, slices; only slices have an axis less inside.
        carried = len(body.outvars) - _sliced(eqn.outvars, body.outvars)
        first = len(xs) - _sliced(eqn.invars, body.invars)
        stacked, carry, consts = xs[first:], xs[first - carried : first], xs[: first - carried]
        length = p["length"]
        outputs: list[Any] = [None] * length
        for t in reversed(range(length)) if p["reverse"] else range(length):
            results = self.run(p["jaxpr"], [*consts, *carry, *(at(x, t) for x in stacked)])
            results = [later(x, self.counts) for x in results]
            carry, outputs[t] = results[:carried], results[carried:]
        rows = enumerate(eqn.outvars[carried:])
        ys = [stack([row[i] for row in outputs], v.aval, n) for i, v in rows]
        return [*carry, *ys]

    def while_(self, eqn: Any, xs: list[Any]) -> list[Any]:
        """Iterations while the condition is known; then what holds however many there are."""
        p = eqn.params
        split = p["cond_nconsts"] + p["body_nconsts"]
        on, of = xs[: p["cond_nconsts"]], xs[p["cond_nconsts"] : split]
        carry = xs[split:]
        for _ in range(LONGEST_LOOP):
            (again,) = self.run(p["cond_jaxpr"], [*on, *carry])
            if isinstance(again, Reach):
                return self.settle(p, on, of, carry)
            if not again:
                return carry
            carry = [later(x, self.counts) for x in self.run(p["body_jaxpr"], [*of, *carry])]
        self.notes[f"while: more than {LONGEST_LOOP} iterations, taken as any number"] = None
        return self.settle(p, on, of, carry)

    def settle(self, p: Any, on: list[Any], of: list[Any], carry: list[Any]) -> list[Any]:
        """The least that is true after any number of iterations."""
        self.notes["while: the number of iterations depends on the input"] = None
        while True:
            (again,) = self.run(p["cond_jaxpr"], [*on, *carry])
            reads = anything([again], self.n)
            after = [later(x, self.counts) for x in self.run(p["body_jaxpr"], [*of, *carry])]
            joined = [
                depend(join(a, b, self.n), reads, self.n) for a, b in zip(carry, after, strict=True)
            ]
            if all(same(a, b, self.n) for a, b in zip(carry, joined, strict=True)):
                return joined
            carry = joined

    def cond_(self, eqn: Any, xs: list[Any]) -> list[Any]:
        """The branch that is taken, or what holds in all of them."""
        which, *operands = xs
        branches = eqn.params["branches"]
        if not isinstance(which, Reach):
            chosen = int(np.clip(int(which), 0, len(branches) - 1))
            return self.run(branches[chosen], operands)
        first, *others = [self.run(branch, operands) for branch in branches]
        for other in others:
            first = [join(a, b, self.n) for a, b in zip(first, other, strict=True)]
        return [depend(x, which.steps, self.n) for x in first]


def _sliced(outside: Any, inside: Any) -> int:
    """How many variables have an axis more outside of a loop than inside."""
    pairs = zip(outside, inside, strict=True)
    return sum(len(o.aval.shape) > len(i.aval.shape) for o, i in pairs)


def at(x: Any, t: int) -> Any:
    """One slice along the first axis."""
    return Reach(x.value[t], x.known[t], x.steps[t]) if isinstance(x, Reach) else x[t]


def stack(rows: list[Any], aval: Any, n: int) -> Any:
    """Slices put together along a new first axis."""
    if not any(isinstance(row, Reach) for row in rows):
        return (
            jnp.stack([jnp.asarray(row) for row in rows])
            if rows
            else jnp.zeros(aval.shape, aval.dtype)
        )
    lifted = [lift(row, n) for row in rows]
    return Reach(
        np.stack([row.value for row in lifted]),
        np.stack([row.known for row in lifted]),
        np.stack([row.steps for row in lifted]),
    )


def same(a: Any, b: Any, n: int) -> bool:
    """Whether two abstract arrays say the same."""
    a, b = lift(a, n), lift(b, n)
    return bool(
        (a.known == b.known).all()
        and (a.steps == b.steps).all()
        and (a.far == b.far).all()
        and np.array_equal(a.value, b.value, equal_nan=a.value.dtype.kind in "fc")
    )
