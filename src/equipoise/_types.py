"""Array types, what a result is, a frozen pytree that prints, and what ``help`` shows."""

import dataclasses
import enum
import functools
import inspect
import textwrap
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
    "legible",
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


class _Signature(inspect.Signature):
    """A signature that prints without annotations: types and shapes stand in the docstring."""

    def __str__(self) -> str:
        """Names and defaults in lines that fit a terminal beside the name of a function."""
        bare = [
            p.replace(annotation=p.empty, default=_Named(p.default))
            if inspect.isroutine(p.default) or isinstance(p.default, jax.custom_jvp)
            else p.replace(annotation=p.empty)
            for p in self.parameters.values()
        ]
        text = str(inspect.Signature(bare))
        return textwrap.fill(text, 70, subsequent_indent="    ", break_long_words=False)

    def format(self, **_: Any) -> str:
        """The same, as later versions of Python ask for it."""
        return str(self)


class _Named:
    """A default that prints as its name."""

    def __init__(self, function: Any) -> None:
        self.name = function.__name__

    def __repr__(self) -> str:
        return str(self.name)


def legible(area: dict[str, Any]) -> None:
    """Let ``help`` of an area's functions, classes and their methods be read in a terminal."""
    for name in area["__all__"]:
        value: Any = area[name]
        bases = () if isinstance(value, enum.EnumMeta) else getattr(value, "__mro__", ())
        own = [base for base in bases if base.__module__.startswith("equipoise.")]
        members = [getattr(m, "__func__", m) for base in own for m in vars(base).values()]
        for member in [*own[:1], *filter(inspect.isfunction, [value, *members])]:
            found = inspect.signature(member)
            member.__signature__ = _Signature(
                list(found.parameters.values()), return_annotation=found.return_annotation
            )
