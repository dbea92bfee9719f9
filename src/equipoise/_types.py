"""Array types, and the one way a result is defined: a frozen pytree that prints."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, TypeAlias, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped

__all__ = [
    "Array",
    "Bool",
    "Float",
    "Int",
    "PRNGKeyArray",
    "PyTree",
    "Scalar",
    "Shaped",
    "aligned",
    "field_by_field",
    "record",
    "result",
    "short",
    "static_field",
    "static_result",
]

Scalar: TypeAlias = Float[Array, ""]
_T = TypeVar("_T")


def static_field(**keywords: Any) -> Any:
    """A dataclass field that is part of the pytree's structure, not one of its leaves."""
    return dataclasses.field(metadata={"static": True}, **keywords)


@dataclass_transform(frozen_default=True, field_specifiers=(static_field, dataclasses.field))
def record(cls: type[_T]) -> type[_T]:
    """A frozen dataclass that is a pytree; like :func:`chex.dataclass`, with static fields."""
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(cls))


@dataclass_transform(frozen_default=True, field_specifiers=(static_field, dataclasses.field))
def result(cls: type[_T]) -> type[_T]:
    """A record that is the answer to a question: it prints as an aligned summary."""
    return _printed(record(cls))


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def static_result(cls: type[_T]) -> type[_T]:
    """A result without arrays, which is part of a pytree's structure as a whole."""
    return _printed(jax.tree_util.register_static(dataclasses.dataclass(frozen=True)(cls)))


def _printed(cls: type[_T]) -> type[_T]:
    if "__str__" not in cls.__dict__:
        cls.__str__ = field_by_field  # type: ignore[method-assign]
    cls.__repr__ = _at_the_prompt  # type: ignore[method-assign]
    return cls


def _at_the_prompt(self: object) -> str:
    """The summary, in a notebook too; plain fields where a transformation holds the leaves."""
    known = (jax.Array, np.ndarray, np.generic, bool, int, float, complex)
    leaves = jax.tree.leaves(self)
    plain = all(isinstance(x, known) and not isinstance(x, jax.core.Tracer) for x in leaves)
    return str(self) if plain else field_by_field(self)


def short(value: object) -> str:
    """A value in a few characters: scalars in six digits, arrays by shape and range."""
    if isinstance(value, (str, bool, int, type(None))):
        return str(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, jax.core.Tracer):
        return str(value.aval)
    if isinstance(value, (jax.Array, np.ndarray, np.generic)):
        if jnp.issubdtype(value.dtype, jax.dtypes.extended):
            return f"{value.dtype}{list(value.shape)}"
        array = np.asarray(value)
        if array.ndim == 0:
            return f"{array[()]:.6g}" if array.dtype.kind in "fc" else str(array[()])
        extent = f" in [{array.min():.4g}, {array.max():.4g}]" if array.size else ""
        return f"{array.dtype}{list(array.shape)}{extent}"
    if isinstance(value, tuple) and value and all(map(callable, value)):
        return ", ".join(getattr(f, "__name__", type(f).__name__) for f in value)
    if dataclasses.is_dataclass(value):
        text = str(value)
        return type(value).__name__ if "\n" in text else text
    if isinstance(value, (tuple, list)) and type(value) in (tuple, list) and len(value) <= 4:
        return ", ".join(map(short, value)) or "none"
    leaves = jax.tree_util.tree_leaves_with_path(value)
    if leaves and leaves[0][0] == ():
        return str(value)
    if len(leaves) > 4:
        return f"{type(value).__name__} of {len(leaves)} leaves"
    name = functools.partial(jax.tree_util.keystr, simple=True, separator=".")
    return ", ".join(f"{name(path)}: {short(leaf)}" for path, leaf in leaves) or "none"


def aligned(rows: Sequence[Sequence[object]], *, header: Sequence[str] | None = None) -> str:
    """Rows as text in columns; every cell through :func:`short`."""
    cells = [[short(cell) for cell in row] for row in rows]
    if header is not None:
        cells.insert(0, list(header))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


def field_by_field(self: object) -> str:
    """A result as rows of its fields."""
    fields = [field for field in dataclasses.fields(self) if field.repr]  # type: ignore[arg-type]
    rows = [[f"  {field.name}", getattr(self, field.name)] for field in fields]
    return f"{type(self).__name__}\n{aligned(rows)}"
