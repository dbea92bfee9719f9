"""Arguments given as arrays, shape structures or strings, with one scope of named sizes a call."""

import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from equipoise._check import type_error, value_error
from equipoise._jax.meshes.local import typed_as
from equipoise._jax.programs import Atom, OpenProgram, aval, is_array
from equipoise._types import PyTree
from equipoise.cost._program.layouts import without_axes
from equipoise.cost._program.sizes import as_text, structure

# Floating-point types of eight bits and fewer: "f8_e4m3fn" is float8_e4m3fn.
_SMALL = [name for name in dir(jnp) if name.startswith(("float4_", "float6_", "float8_"))]
DTYPES = {
    "bool": "bool",
    "bf16": "bfloat16",
    **{name.replace("float", "f"): name for name in _SMALL},
    **{f"f{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"i{bits}": f"int{bits}" for bits in (4, 8, 16, 32, 64)},
    **{f"s{bits}": f"int{bits}" for bits in (4, 8, 16, 32, 64)},
    **{f"u{bits}": f"uint{bits}" for bits in (4, 8, 16, 32, 64)},
    **{f"c{bits}": f"complex{bits}" for bits in (64, 128)},
}
_SPEC = re.compile(r"\s*([A-Za-z]\w*)\s*(?:\[(.*)\]\s*)?")
_FORM = "Write a dtype and sizes, such as 'f32[n,d]', 'bf16[8,2*n]' or 'i32[]'."


def structures(
    args: Sequence[PyTree],
    constraints: Sequence[str],
    scope: export.SymbolicScope | None = None,
) -> tuple[PyTree, ...]:
    """The arguments with every leaf as a :class:`jax.ShapeDtypeStruct`, all in one scope."""
    scope = scope or scope_of(args, constraints)
    leaves, tree = jax.tree_util.tree_flatten_with_path(tuple(args))
    made = [_structure(f"args{jax.tree_util.keystr(path)}", x, scope) for path, x in leaves]
    return tuple(jax.tree.unflatten(tree, made))


_Kind: TypeAlias = tuple[tuple[str, ...], np.dtype]


def donated(
    donate: int | Sequence[int], shapes: Sequence[PyTree], outvars: Sequence[Atom]
) -> dict[int, int]:
    """The inputs of a program that belong to donated arguments, each with the result over it."""
    numbers = (donate,) if isinstance(donate, int) else tuple(donate)
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int):
            raise type_error("donate", "must hold the numbers of arguments", number)
        if not 0 <= number < len(shapes):
            count = f"from 0 to {len(shapes) - 1}" if shapes else "none, as there are no arguments"
            raise value_error("donate", f"must hold numbers of arguments: {count}", number)
    results: dict[_Kind, list[int]] = {}
    for i, v in enumerate(outvars):
        if is_array(v):
            results.setdefault(_kind(aval(v)), []).append(i)
    over = {}
    for i, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(tuple(shapes))):
        if path[0].idx not in numbers:
            continue
        kind = _kind(leaf)
        if not results.get(kind):
            raise value_error(
                "donate",
                "must name arguments whose arrays a result can take the place of",
                f"args{jax.tree_util.keystr(path)} of shape {leaf.shape} and dtype {leaf.dtype}",
                "No result is left that has its shape and dtype; JAX would keep it as it is.",
            )
        over[i] = results[kind].pop(0)
    return over


def fitting(over: Mapping[int, int], local: OpenProgram) -> dict[int, int]:
    """The same of one device: a part of another size than that of the result is kept."""
    pairs = ((i, j, aval(local.invars[i]), aval(local.outvars[j])) for i, j in over.items())
    return {i: j for i, j, part, result in pairs if _kind(part) == _kind(result)}


def _kind(array: PyTree) -> _Kind:
    return tuple(map(as_text, array.shape)), array.dtype


def scope_of(args: Sequence[PyTree], constraints: Sequence[str]) -> export.SymbolicScope:
    """The scope of the sizes that came as JAX's own symbolic dimensions, or a new one."""
    scopes: dict[int, export.SymbolicScope] = {
        id(size.scope): size.scope
        for leaf in jax.tree.leaves(args)
        for size in getattr(leaf, "shape", ())
        if export.is_symbolic_dim(size)
    }
    if len(scopes) > 1 or (scopes and constraints):
        raise value_error(
            "args",
            "must take their symbolic sizes from one scope, and have constraints there",
            f"{len(scopes)} scopes and {len(constraints)} constraints",
            "Give the shapes as strings instead.",
        )
    for scope in scopes.values():
        return scope
    try:
        return export.SymbolicScope(tuple(constraints))
    except ValueError as error:
        raise value_error(
            "constraints",
            "must be comparisons of sizes",
            repr(tuple(constraints)),
            f"Write for example 'n >= 4' or 'mod(n, 2) == 0'. ({_first_line(error)})",
        ) from error


def _structure(name: str, leaf: object, scope: export.SymbolicScope) -> object:
    if isinstance(leaf, str):
        return _parse(name, leaf, scope)
    if isinstance(leaf, (bool, int, float, complex)):
        return leaf
    if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
        raise type_error(
            name,
            "must be an array, a jax.ShapeDtypeStruct or a string",
            leaf,
            f"{_FORM} Close over anything that is no array.",
        )
    weak = bool(getattr(leaf, "weak_type", False))
    made = structure(leaf.shape, _dtype(name, leaf.dtype), weak=weak)
    return typed_as(leaf, made)


def _dtype(name: str, dtype: np.dtype) -> np.dtype:
    if jnp.issubdtype(dtype, jax.dtypes.extended):
        return dtype
    usual = jax.dtypes.canonicalize_dtype(dtype)
    if usual != dtype:
        raise value_error(
            name,
            f"must have a dtype that JAX now computes in, such as {usual}",
            str(jnp.dtype(dtype)),
            "Turn on jax_enable_x64 for 64-bit types.",
        )
    return dtype


def _parse(name: str, text: str, scope: export.SymbolicScope) -> jax.ShapeDtypeStruct:
    match = _SPEC.fullmatch(text)
    if match is None:
        raise value_error(name, "must be a dtype with a shape", repr(text), _FORM)
    written, sizes = match[1], (match[2] or "").strip()
    try:
        dtype = jnp.dtype(DTYPES.get(written, written))
    except TypeError as error:
        raise value_error(name, "must start with a dtype", repr(text), _FORM) from error
    try:
        shape = export.symbolic_shape(without_axes(sizes), scope=scope) if sizes else ()
    except (ValueError, TypeError, SyntaxError) as error:
        raise value_error(
            name, "must be a dtype with sizes", repr(text), f"{_FORM} ({_first_line(error)})"
        ) from error
    for size in shape:
        if not export.is_symbolic_dim(size) and size < 1:
            raise value_error(name, "must have positive sizes", repr(text))
    return structure(shape, _dtype(name, dtype))


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
