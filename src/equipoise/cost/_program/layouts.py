"""How arguments are divided along the axes of a mesh: by their shardings, or as strings say."""

import re
from collections.abc import Iterator, Sequence

import jax

from equipoise._check import value_error
from equipoise._jax.meshes.local import Spec, divided, spec_of
from equipoise._types import PyTree
from equipoise.cost._program.mesh import Axes

_DIVIDED = re.compile(r"\s*@\s*(\w+|\([\w\s,]*\))")  # as JAX prints it: f32[8@x,4], f32[8@(x,y)]


def without_axes(sizes: str) -> str:
    """The sizes of a shape without the axes of the mesh along which they are divided."""
    return _DIVIDED.sub("", sizes)


def mesh_of(args: Sequence[PyTree]) -> jax.sharding.Mesh | jax.sharding.AbstractMesh | None:
    """The mesh on which the first argument lies that is divided."""
    for leaf in jax.tree.leaves(args):
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, jax.sharding.NamedSharding):
            return sharding.mesh
    return None


def layouts(
    args: Sequence[PyTree], shapes: Sequence[PyTree], axes: Axes | None
) -> list[Spec | None]:
    """The axes along which each array of the arguments is divided; None where nothing is said."""
    sizes = {} if axes is None else axes.dimensions()
    known = tuple(sizes)
    paths = jax.tree_util.tree_leaves_with_path(tuple(args))
    found: list[Spec | None] = []
    for (path, leaf), shape in zip(paths, jax.tree.leaves(tuple(shapes)), strict=True):
        spec = _spec(leaf, len(getattr(shape, "shape", ())))
        found.append(spec)
        named = [axis for part in spec or () for axis in part]
        if not named:
            continue
        name = f"args{jax.tree_util.keystr(path)}"
        if not set(named) <= set(known):
            stated = ", ".join(known) or "none"
            advice = "State them, as in mesh={'data': 8}."
            raise value_error("mesh", f"must have the axes of `{name}`", stated, advice)
        if len(set(named)) < len(named):
            raise value_error(name, "must be divided along each axis once", ", ".join(named))
        for size, along in zip(shape.shape, spec or (), strict=True):
            if along and divided(size, [sizes[axis] for axis in along]) is None:
                expected = f"must have a size that {' and '.join(along)} divide"
                advice = "Write a multiple of their sizes, as in 'f32[d*b@data,n]'."
                raise value_error(name, expected, str(size), advice)
    return found


def _spec(leaf: object, rank: int) -> Spec | None:
    if isinstance(leaf, str):
        return tuple(_of_text(leaf)) if "@" in leaf else None
    sharding = getattr(leaf, "sharding", None)
    if not isinstance(sharding, jax.sharding.NamedSharding):
        return None
    return spec_of(sharding.spec, rank)


def _of_text(text: str) -> Iterator[tuple[str, ...]]:
    """The axes of each size of a shape."""
    depth, sizes = 0, [""]
    for letter in text[text.index("[") + 1 : text.rindex("]")]:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and not depth:
            sizes.append("")
        else:
            sizes[-1] += letter
    for size in sizes:
        axes = _DIVIDED.search(size)
        yield tuple(re.findall(r"\w+", axes[1])) if axes else ()
