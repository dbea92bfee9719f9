"""Which blocks of the grid are computed: those in which some pair may attend."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from equipoise._jax.varying import mesh_of
from equipoise._types import Array, PyTree
from equipoise.attention._kernel.grid import Grid, Place, Schedule, int32, is_named, least
from equipoise.attention._kernel.loop import most_of_batch
from equipoise.attention._kernel.problem import Problem
from equipoise.attention._masks.mask import Extent, Flags, Mask

# Blocks are long enough for XLA on CPU to share out their products between cores; what is held at
# once, over batch and heads, is at most so many scores.
_BLOCK, _SMALLEST, _LONGEST, _SCORES = 512, 128, 4096, 2**24
# Where a mask is known to skip some of them, blocks of this length in place of a single one: so few
# scores stay in a core's own cache, and are not worth to be shared out.
_SHORT = 64
# A pass over as many scores costs more than a branch that spares it.
_WORTH_A_BRANCH = 2**16
# On CPU a product of one head is shared out between cores, and products of several heads go one
# after another: heads are taken together only while their scores are few enough to stay in cache.
_IN_CACHE = 2**19
_NAMED_BATCH = 8  # what a batch counts whose size is a name


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Where:
    """What decides on blocks beside the arrays: the size asked for, and where they are computed.

    ``divided`` says whether rows are divided between devices, None where no type does. The
    platform is known where a program is lowered.
    """

    block_size: int | None
    divided: bool | None
    platform: str | None = None

    def on(self, platform: str) -> "Where":
        """The same on a platform."""
        return dataclasses.replace(self, platform=platform)

    def on_cpu(self, problem: Problem) -> bool:
        """Whether one device computes all of it, a CPU."""
        return self.platform == "cpu" and num_devices(problem) == 1


def grid_of(problem: Problem, where: Where) -> Grid:
    """Blocks of nearly equal length, none longer than asked for."""
    grid = _grid(problem, where)
    if where.block_size is not None or problem.mask is None or not where.on_cpu(problem):
        return grid
    one = not is_named(grid.rows, grid.keys) and grid.row_blocks == grid.key_blocks == 1
    finer = _grid(problem, dataclasses.replace(where, block_size=_SHORT)) if one else grid
    possible = None if finer == grid else _known(problem, finer)
    return finer if possible is not None and not possible.all() else grid


def _grid(problem: Problem, where: Where) -> Grid:
    b, t, s, k, g = problem.sizes
    b, named_heads = _NAMED_BATCH if is_named(b) else b, is_named(k, g)
    # Heads that XLA may have divided between devices are not taken one by one.
    devices, on_cpu, block_size = num_devices(problem), where.on_cpu(problem), where.block_size
    row_block = key_block = block_size or _BLOCK
    if block_size is None:
        # Where no block is skipped, long ones waste nothing and pass over the sums less often.
        row_block *= 4 if on_cpu and problem.mask is None else 1
        together = b * g * (1 if on_cpu else k)
        most = 0 if named_heads else _SCORES * devices // together
        if _rows_at_once(problem, where) and most // t >= _SMALLEST:
            row_block, key_block = t, min(key_block, most // t)
        while key_block > _SMALLEST and row_block * key_block > most:
            row_block, key_block = row_block // 2, key_block // 2
    row_block, key_block = _fitted(t, row_block), _fitted(s, key_block)
    head_block = k
    if on_cpu and not named_heads:
        most = _IN_CACHE // (b * g * row_block * key_block)
        if most < k > 1:
            head_block = max(n for n in range(1, k) if k % n == 0 and n <= max(most // 2, 1))
    every = is_named(t, s) and problem.mask is None
    return Grid(k, t, s, head_block, row_block, key_block, every)


def num_devices(problem: Problem) -> int:
    """Between how many devices XLA may divide the arrays."""
    mesh = mesh_of(problem.query)
    return math.prod(mesh.shape[axis] for axis in mesh.auto_axes)


def _rows_at_once(problem: Problem, where: Where) -> bool:
    """Whether a block has all rows, so that devices that share the sequence share its work.

    They can always where no block is skipped. Where some are, XLA may have divided batch and heads
    instead, on which rows are better taken in turn; unless there are not enough of those, or types
    say which it is.
    """
    (b, t, _, k, _), devices = problem.sizes, num_devices(problem)
    if devices == 1 or is_named(b, t, k):
        return False
    by_count = b * k % devices != 0
    return problem.mask is None or (by_count if where.divided is None else where.divided)


def grid_of_values(problem: Problem, where: Where) -> Grid:
    """Blocks with as many scores but more keys, for values where no block is skipped.

    Then no loop over keys remains at common lengths. Derivatives, which add to the keys too, gain
    nothing, nor do accelerators.
    """
    grid = grid_of(problem, where)
    if where.block_size is not None or problem.mask is not None or grid.every:
        return grid
    if not where.on_cpu(problem):
        return grid
    scores = grid.row_block * grid.key_block
    key_block = _fitted(grid.keys, max(grid.key_block, min(_LONGEST, scores // _SMALLEST)))
    row_block = _fitted(grid.rows, max(scores // key_block, 1))
    return grid._replace(row_block=row_block, key_block=key_block)


def _fitted(length: int, block_size: int) -> int:
    if is_named(length):
        return block_size
    count = -(-length // block_size)
    return -(-length // count)


def _ends(length: int, block: int, count: int) -> tuple[Flags, Flags]:
    """First index read and last index of each block, int32; of NumPy where they are known."""
    size = least(length, block)
    number, minimum = (jnp.arange, jnp.minimum) if is_named(length) else (np.arange, np.minimum)
    first: Flags = minimum(number(count, dtype=np.int32) * int32(size), int32(length - size))
    return first, first + int32(size - 1)


def schedule_of(problem: Problem, grid: Grid) -> Schedule:
    """The pairs of blocks to compute, known while tracing unless a mask holds arrays.

    Named lengths are not known either; nothing is listed where every block is computed.
    """
    if grid.every:
        return Schedule._make([np.zeros(0, np.int32)] * 3)
    possible = _known(problem, grid)
    if possible is None:
        offset: PyTree = problem.offset
        offset = np.full(1, offset, np.int32) if isinstance(offset, int) else offset
        return _listed(problem.mask, offset, grid)
    # Arrays of NumPy, so that no program makes them.
    lists = *np.nonzero(possible), np.cumsum(possible.sum(axis=1))
    found: PyTree = [x.astype(np.int32) for x in lists]
    return Schedule._make(found)


def _known(problem: Problem, grid: Grid, *, certain: bool = False) -> np.ndarray | None:
    """Which blocks may hold a pair, or hold all, unless it takes the values of arrays to say."""
    leaves, structure = jax.tree.flatten((problem.mask, problem.offset))
    arrays = {i: x for i, x in enumerate(leaves) if isinstance(x, jax.Array)}
    found: list[PyTree] = []

    def ask(arrays: dict[int, Array]) -> None:
        full = [arrays.get(i, x) for i, x in enumerate(leaves)]
        mask, offset = jax.tree.unflatten(structure, full)
        found.append(_bounds(mask, offset, grid)[certain].any(axis=0))

    jax.eval_shape(ask, arrays)
    return found[0] if isinstance(found[0], np.ndarray) else None


def needed(problem: Problem) -> Problem:
    """The problem without a mask that is known to permit every pair."""
    _, t, s, k, _ = problem.sizes
    if problem.mask is None or is_named(t, s):
        return problem
    certain = _known(problem, Grid(k, t, s, k, t, s), certain=True)
    return (
        problem if certain is None or not certain.all() else dataclasses.replace(problem, mask=None)
    )


@functools.partial(jax.jit, static_argnames="grid", inline=True)
def _listed(mask: Mask | None, offset: Array, grid: Grid) -> Schedule:
    """The same from values that are not known; one program where eager."""
    possible = most_of_batch(possible_blocks(mask, offset, grid).any(axis=0))
    first = jnp.argsort(~possible.reshape(-1), stable=True).astype(jnp.int32)
    row, key = jnp.divmod(first, int32(grid.key_blocks))
    return Schedule(row, key, jnp.cumsum(possible.sum(axis=1, dtype=jnp.int32)))


def possible_blocks(mask: Mask | None, offset: int | Array, grid: Grid) -> Flags:
    """Whether a block may hold a pair, (batch, row blocks, key blocks)."""
    return _bounds(mask, offset, grid)[0]


def _bounds(mask: Mask | None, offset: int | Array, grid: Grid) -> tuple[Flags, Flags]:
    """Whether a block may hold a pair, and whether all of its pairs attend."""
    ones = jnp.ones if is_named(grid.rows, grid.keys) else np.ones
    every: Flags = ones((1, grid.row_blocks, grid.key_blocks), bool)
    if mask is None:
        return every, every
    rows = _ends(grid.rows, grid.row_block, grid.row_blocks)
    keys = _ends(grid.keys, grid.key_block, grid.key_blocks)
    possible, certain = mask.bounds(_extent(rows, keys, offset, grid))
    return possible & every, certain & every


def partly_allowed(problem: Problem, place: Place, grid: Grid, where: Where) -> Array | None:
    """Whether some pairs of a block may not attend; None where that is not worth to be asked.

    It is on a CPU: elsewhere a branch would wait for the host.
    """
    if problem.mask is None or is_named(grid.rows, grid.keys) or not where.on_cpu(problem):
        return None
    if grid.key_blocks == 1 or grid.row_block * grid.key_block < _WORTH_A_BRANCH:
        return None
    rows, keys = (
        (lax.reshape(start, (1,)), lax.reshape(start + np.int32(size - 1), (1,)))
        for start, size in (
            (place.row_start, grid.block_rows),
            (place.key_start, grid.block_keys),
        )
    )
    certain = problem.mask.bounds(_extent(rows, keys, problem.offset, grid))[1]
    # Of NumPy where it is false for any block.
    return most_of_batch(~certain.all()) if isinstance(certain, jax.Array) else None


def _extent(
    rows: tuple[Flags, Flags], keys: tuple[Flags, Flags], offset: int | Array, grid: Grid
) -> Extent:
    """Of blocks from these first to these last rows and keys."""
    row_first, row_last = (x[None, :, None] for x in rows)
    key_first, key_last = (x[None, None, :] for x in keys)
    ahead = offset if isinstance(offset, int) else offset[:, None, None]
    query = row_first + ahead, row_last + ahead
    sizes = grid.block_rows, grid.block_keys
    return Extent((row_first, row_last), query, (key_first, key_last), sizes)
