"""Arguments given as arrays, shape structures or strings, with one scope of named sizes a call."""

import ast
import functools
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from equipoise import _check_old as _check
from equipoise._types import PyTree
from equipoise.cost._expression import ONE, Expression, apply

DTYPES = {
    "bool": "bool",
    "bf16": "bfloat16",
    **{f"f{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"i{bits}": f"int{bits}" for bits in (4, 8, 16, 32, 64)},
    **{f"s{bits}": f"int{bits}" for bits in (4, 8, 16, 32, 64)},
    **{f"u{bits}": f"uint{bits}" for bits in (4, 8, 16, 32, 64)},
    **{f"c{bits}": f"complex{bits}" for bits in (64, 128)},
}
SPEC = re.compile(r"\s*([A-Za-z]\w*)\s*(?:\[(.*)\]\s*)?")
FORM = "Write a dtype and sizes, such as 'f32[n,d]', 'bf16[8,2*n]' or 'i32[]'."


def structures(where: str, args: Sequence[PyTree], constraints: Sequence[str]) -> tuple[Any, ...]:
    """The arguments with every leaf as a :class:`jax.ShapeDtypeStruct`, all in one scope."""
    scope = _scope(where, args, constraints)
    leaves, tree = jax.tree_util.tree_flatten_with_path(tuple(args))
    made = [_structure(where, f"args{jax.tree_util.keystr(path)}", x, scope) for path, x in leaves]
    return tuple(jax.tree.unflatten(tree, made))


def _scope(where: str, args: Sequence[PyTree], constraints: Sequence[str]) -> export.SymbolicScope:
    """The scope of the sizes that came as JAX's own symbolic dimensions, or a new one."""
    scopes: dict[int, export.SymbolicScope] = {
        id(size.scope): size.scope
        for leaf in jax.tree.leaves(args)
        for size in getattr(leaf, "shape", ())
        if export.is_symbolic_dim(size)
    }
    if len(scopes) > 1 or (scopes and constraints):
        raise _check.value_error(
            where,
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
        raise _check.value_error(
            where,
            "constraints",
            "must be comparisons of sizes",
            repr(tuple(constraints)),
            f"Write for example 'n >= 4' or 'mod(n, 2) == 0'. ({_first_line(error)})",
        ) from error


def _structure(where: str, name: str, leaf: Any, scope: export.SymbolicScope) -> Any:
    if isinstance(leaf, str):
        return _parse(where, name, leaf, scope)
    if isinstance(leaf, (bool, int, float, complex)):
        return leaf
    if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
        raise _check.type_error(
            where,
            name,
            "must be an array, a jax.ShapeDtypeStruct or a string",
            leaf,
            f"{FORM} Close over anything that is no array.",
        )
    weak = bool(getattr(leaf, "weak_type", False))
    return structure(leaf.shape, _dtype(where, name, leaf.dtype), weak=weak)


def structure(shape: Sequence[Any], dtype: Any, *, weak: bool = False) -> Any:
    """The shape structure that stands for an array."""
    return jax.ShapeDtypeStruct(tuple(shape), dtype, weak_type=weak)  # type: ignore[no-untyped-call]


def _dtype(where: str, name: str, dtype: Any) -> Any:
    if jnp.issubdtype(dtype, jax.dtypes.extended):
        return dtype
    usual = jax.dtypes.canonicalize_dtype(dtype)
    if usual != dtype:
        raise _check.value_error(
            where,
            name,
            f"must have a dtype that JAX now computes in, such as {usual}",
            str(jnp.dtype(dtype)),
            "Turn on jax_enable_x64 for 64-bit types.",
        )
    return dtype


def _parse(where: str, name: str, text: str, scope: export.SymbolicScope) -> Any:
    match = SPEC.fullmatch(text)
    if match is None:
        raise _check.value_error(where, name, "must be a dtype with a shape", repr(text), FORM)
    written, sizes = match[1], (match[2] or "").strip()
    try:
        dtype = jnp.dtype(DTYPES.get(written, written))
    except TypeError as error:
        raise _check.value_error(
            where, name, "must start with a dtype", repr(text), FORM
        ) from error
    try:
        shape = export.symbolic_shape(sizes, scope=scope) if sizes else ()
    except (ValueError, TypeError, SyntaxError) as error:
        raise _check.value_error(
            where, name, "must be a dtype with sizes", repr(text), f"{FORM} ({_first_line(error)})"
        ) from error
    for size in shape:
        if not export.is_symbolic_dim(size) and size < 1:
            raise _check.value_error(where, name, "must have positive sizes", repr(text))
    return structure(shape, _dtype(where, name, dtype))


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def expression(size: Any) -> Expression:
    """A size of a shape, which is a number or one of JAX's symbolic dimensions."""
    return Expression(int(size)) if not export.is_symbolic_dim(size) else parse(str(size))


@functools.lru_cache(maxsize=2**14)
def parse(text: str) -> Expression:
    """An expression from text in JAX's notation for dimensions."""
    return _from_node(ast.parse(text.replace("^", "**"), mode="eval").body)


def _from_node(node: ast.expr) -> Expression:
    match node:
        case ast.Constant(value=int(value)):
            return Expression(value)
        case ast.Name(id=name):
            return Expression(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_from_node(operand)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _from_node(left) + _from_node(right)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return _from_node(left) - _from_node(right)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _from_node(left) * _from_node(right)
        case ast.BinOp(left=left, op=ast.Pow(), right=ast.Constant(value=int(power))):
            return _from_node(left) ** power
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return apply(name, *map(_from_node, arguments))
    raise ValueError(f"cannot read the dimension {ast.unparse(node)!r}")


def count(shape: Sequence[Any]) -> Expression:
    """The number of elements of a shape."""
    return _product(tuple(map(str, shape)))


@functools.lru_cache(maxsize=2**14)
def _product(sizes: tuple[str, ...]) -> Expression:
    return functools.reduce(lambda total, size: total * parse(size), sizes, ONE)


@functools.lru_cache(maxsize=2**10)
def item_bytes(dtype: Any) -> int:
    """Bytes of one element; a random key counts the words that it holds."""
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return 4 * int(jax.eval_shape(jax.random.key_data, structure((), dtype)).size)
    return int(jnp.dtype(dtype).itemsize)


def array_bytes(aval: Any) -> Expression:
    """Bytes of an array of this shape and dtype; 0 for a token, which has neither."""
    if not hasattr(aval, "shape"):
        return Expression(0)
    return _product((str(item_bytes(aval.dtype)), *map(str, aval.shape)))
