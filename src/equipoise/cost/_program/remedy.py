"""What helps a function that cannot be traced with named sizes: tried before it is said."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
from jax import export

from equipoise._types import PyTree
from equipoise.cost._program.sizes import size_of, structure

# Sizes for a second trace with numbers: all different, with a common factor for heads and blocks.
_STEP = 24
_FACTORS = 4  # most numbers of a message that are tried as factors
_COMPARED = re.compile(r"comparison '(\w+)' [<>=!]+ '(\d+)'")
_OUTSIDE = re.compile(r"ufunc|real number, not _DimExpr")  # what NumPy and math say of a size

_Function = Callable[..., PyTree]


def with_numbers(args: Sequence[PyTree]) -> tuple[dict[str, int], tuple[PyTree, ...]]:
    """A different number for every size, and the arguments with those numbers."""
    shapes = [getattr(leaf, "shape", ()) for leaf in jax.tree.leaves(args)]
    names = {name for shape in shapes for size in shape for name in size_of(size).names}
    sizes = {name: _STEP * (i + 1) for i, name in enumerate(sorted(names))}
    return sizes, _written(args, {name: str(size) for name, size in sizes.items()})


def remedy(fn: _Function, args: Sequence[PyTree], message: str) -> str:
    """What to do where tracing failed with this message; empty where not even numbers help."""
    sizes, numbers = with_numbers(args)
    if not sizes or not _is_traceable(fn, numbers):
        return ""
    one = (n for n in sizes if _is_traceable(fn, _written(args, {n: str(sizes[n])})))
    found = [f"With numbers for sizes it works: give {_numbers(next(one, ''), sizes)}"]
    if _OUTSIDE.search(message):
        found.append("or call jax.numpy there, which takes sizes by name")
    for name, factor in _multiples(sizes, message):
        if _is_traceable(fn, _written(args, {name: f"{factor}*{name}"})):
            found.append(f"or write `{name}` as a multiple, as in 'f32[{factor}*{name}]'")
            break
    for constraint in _constraints(message):
        if _is_traceable(fn, _written(args, {}, (constraint,))):
            found.append(f"or state what holds, as in constraints=('{constraint}',)")
            break
    return f"{'; '.join(found)}."


def _numbers(one: str, sizes: Mapping[str, int]) -> str:
    return f"a number for {one}" if one or len(sizes) == 1 else f"numbers for {', '.join(sizes)}"


def _multiples(sizes: Mapping[str, int], message: str) -> Iterator[tuple[str, int]]:
    """Sizes, each with the numbers of a message that may be meant to divide it."""
    factors = [f for f in dict.fromkeys(map(int, re.findall(r"\b\d+\b", message))) if f > 1]
    yield from ((name, factor) for factor in factors[:_FACTORS] for name in sizes)


def _constraints(message: str) -> Iterator[str]:
    """Either side of the comparison that a message names: the one that holds of large sizes."""
    for name, number in _COMPARED.findall(message):
        yield from (f"{name} >= {int(number) + more}" for more in (0, 1))


def _is_traceable(fn: _Function, args: Sequence[PyTree]) -> bool:
    try:
        jax.make_jaxpr(fn)(*args)
    except Exception:
        return False
    return True


def _written(
    args: Sequence[PyTree], texts: Mapping[str, str], constraints: Sequence[str] = ()
) -> tuple[PyTree, ...]:
    """The arguments with other texts for some names in their shapes."""
    scope = export.SymbolicScope(tuple(constraints))

    def written(leaf: PyTree) -> PyTree:
        if not hasattr(leaf, "shape"):
            return leaf
        sizes = ",".join(
            re.sub(r"[A-Za-z]\w*", lambda match: texts.get(match[0], match[0]), str(size))
            for size in leaf.shape
        )
        shape = export.symbolic_shape(sizes, scope=scope) if sizes else ()
        return structure(shape, leaf.dtype, weak=leaf.weak_type)

    return tuple(jax.tree.map(written, tuple(args)))
