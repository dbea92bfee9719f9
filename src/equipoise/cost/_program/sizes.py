"""Sizes of shapes as expressions, and the elements and bytes of arrays of those sizes."""

import ast
import functools
import operator
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._jax.programs import Atom, Aval, Size, aval, is_array
from equipoise.cost._expression.expression import ONE, ZERO, Expression, apply


def structure(
    shape: Sequence[Size], dtype: np.dtype, *, weak: bool = False
) -> jax.ShapeDtypeStruct:
    """The shape structure that stands for an array."""
    return jax.ShapeDtypeStruct(tuple(shape), dtype, weak_type=weak)  # type: ignore[no-untyped-call]


def size_of(size: Size) -> Expression:
    """A size of a shape, which is a number or one of JAX's symbolic dimensions."""
    return Expression(int(size)) if isinstance(size, (int, np.integer)) else parse(as_text(size))


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


_TEXTS: dict[int, tuple[Size, str]] = {}
_MOST_TEXTS = 2**14


def as_text(size: Size) -> str:
    """A size as JAX writes it. Programs share their sizes, and to write or compare one is slow."""
    if isinstance(size, int):
        return str(size)
    kept = _TEXTS.get(id(size))
    if kept is None or kept[0] is not size:
        if len(_TEXTS) >= _MOST_TEXTS:
            _TEXTS.clear()
        kept = _TEXTS[id(size)] = size, str(size)
    return kept[1]


def is_one(size: Size) -> bool:
    """Whether a size is the number one."""
    return isinstance(size, int) and size == 1


def count(shape: Sequence[Size]) -> Expression:
    """The number of elements of a shape."""
    return _product(tuple(map(as_text, shape)))


@functools.lru_cache(maxsize=2**14)
def _product(sizes: tuple[str, ...]) -> Expression:
    return functools.reduce(lambda total, size: total * parse(size), sizes, ONE)


def size_names(variables: Iterable[Atom]) -> frozenset[str]:
    """The names in the shapes of variables."""
    shapes = (aval(v).shape for v in variables if is_array(v))
    return frozenset(name for shape in shapes for size in shape for name in size_of(size).names)


@functools.lru_cache(maxsize=2**10)
def item_bytes(dtype: np.dtype) -> int:
    """Bytes of one element; a random key counts the words that it holds."""
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return 4 * int(jax.eval_shape(jax.random.key_data, structure((), dtype)).size)
    return int(jnp.dtype(dtype).itemsize)


def array_bytes(*arrays: Aval) -> Expression:
    """Bytes of arrays of these shapes and dtypes."""
    each = (_product((str(item_bytes(a.dtype)), *map(as_text, a.shape))) for a in arrays)
    return functools.reduce(operator.add, each, ZERO)


def total_bytes(variables: Iterable[Atom]) -> Expression:
    """Bytes of some variables of a program; 0 for tokens, which are no arrays."""
    return array_bytes(*(aval(v) for v in variables if is_array(v)))
