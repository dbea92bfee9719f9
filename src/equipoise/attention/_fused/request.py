"""Which requests the fused kernels serve, and such a request in their terms."""

import dataclasses
import functools
import operator
from collections.abc import Sequence

import jax.numpy as jnp

from equipoise._types import Array
from equipoise.attention._kernel.problem import Problem
from equipoise.attention._masks.kinds import Band, Before
from equipoise.attention._masks.mask import Mask, conjuncts


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is static of a request, and the names of its arrays.

    Attributes:
        names: Of :class:`Arrays`, the fields that are there, in order.
        scale: The factor on q·k.
        causal: Whether a row reads no key after its own position.
        window: How many keys before its own position a row reads, or None for all.
        forced: Whether the request is to fail where the kernels cannot serve it.
    """

    names: tuple[str, ...]
    scale: float
    causal: bool
    window: int | None
    forced: bool

    def arrays(self, leaves: Sequence[Array]) -> "Arrays":
        """The arrays by name."""
        return Arrays(**dict(zip(self.names, leaves, strict=True)))


@dataclasses.dataclass(frozen=True)
class Arrays:
    """The arrays of a request, as in :class:`Problem`; ``rows`` and ``keys`` are lengths."""

    query: Array
    key: Array
    value: Array
    bias: Array | None = None
    allowed: Array | None = None
    rows: Array | None = None
    keys: Array | None = None


def refusal(problem: Problem) -> tuple[str, str, object] | None:
    """(argument, what the kernels serve, what came) of the first thing that they cannot serve."""
    parts = conjuncts(problem.mask)
    known = all(isinstance(part, (Band, Before)) for part in parts)
    left, right = _band(parts)
    masks = "causal, a window with a causal mask, lengths or a boolean array"
    mask = f"windows (left, right) {(left, right)}" if known else "a mask of another kind"
    h, e = problem.query.shape[-1], problem.value.shape[-1]
    offset = problem.offset if isinstance(problem.offset, int) else "a traced one"
    sizes = (*problem.query.shape, *problem.key.shape)
    pairs = problem.bias is not None or problem.allowed is not None
    conditions: list[tuple[bool, str, str, object]] = [
        (all(isinstance(n, int) for n in sizes), "query", "sizes that are numbers", str(sizes)),
        (problem.query.dtype.itemsize == 2, "query", "float16 or bfloat16", problem.query),
        (h == e, "value", f"the head size of `query`, {h}", e),
        (h % 8 == 0 and h <= 256, "query", "a head size that is a multiple of 8 up to 256", h),
        (problem.score_fn is None, "score_fn", "None", "a function"),
        (problem.soft_cap is None, "logits_soft_cap", "None", problem.soft_cap),
        (
            problem.kept is None,
            "dropout_rate",
            "0, its random numbers are its own",
            problem.dropout_rate,
        ),
        (offset == 0, "query_offset", "the integer 0", offset),
        (isinstance(problem.scale, float), "scale", "a Python number", problem.scale),
        (known and (right == 0 or (left is right is None)), "mask", masks, mask),
        (0 not in sizes, "query", "rows and keys that there are", str(sizes)),
        (
            not pairs or not (sizes[1] % 2 or sizes[5] % 2),
            "bias",
            "(or a boolean array) with even numbers of rows and keys",
            f"{sizes[1]} rows and {sizes[5]} keys",
        ),
    ]
    refused = (condition[1:] for condition in conditions if not condition[0])
    return next(refused, None)


def serves(problem: Problem) -> bool:
    """Whether the kernels serve the request to the letter, without growing or rounding a bias."""
    if refusal(problem) is not None:
        return False
    pairs = [x for x in (problem.bias, problem.allowed) if x is not None]
    full = (problem.query.shape[1], problem.key.shape[1])
    return all(x.shape[2:] == full and x.dtype in (bool, problem.query.dtype) for x in pairs)


def planned(problem: Problem, *, forced: bool) -> tuple[list[Array], Plan]:
    """A problem that is not refused as the kernels' request."""
    parts = conjuncts(problem.mask)
    left, right = _band(parts)
    lengths = [part for part in parts if isinstance(part, Before)]
    arrays = Arrays(
        problem.query,
        problem.key,
        problem.value,
        problem.bias,
        problem.allowed,
        _least([part.length for part in lengths if part.axis == "row"]),
        _least([part.length for part in lengths if part.axis == "key"]),
    )
    there = {name: x for name, x in vars(arrays).items() if x is not None}
    plan = Plan(tuple(there), float(problem.scale), right == 0, left, forced)
    return list(there.values()), plan


def as_problem(plan: Plan, arrays: Arrays) -> Problem:
    """The request as a problem, for the blocks."""
    parts: list[Mask] = []
    if plan.causal:
        parts.append(Band(plan.window, 0))
    if arrays.rows is not None:
        parts.append(Before(arrays.rows, "row"))
    if arrays.keys is not None:
        parts.append(Before(arrays.keys, "key"))
    return Problem(
        query=arrays.query,
        key=arrays.key,
        value=arrays.value,
        scale=plan.scale,
        offset=0,
        bias=arrays.bias,
        allowed=arrays.allowed,
        mask=functools.reduce(operator.and_, parts) if parts else None,
        captured=(),
        kept=None,
        soft_cap=None,
        sinks=None,
        score_fn=None,
        dropout_rate=0.0,
    )


def _band(parts: Sequence[Mask]) -> tuple[int | None, int | None]:
    """(left, right) of what all windows have in common."""
    bands = [part for part in parts if isinstance(part, Band)]
    lefts = [band.left for band in bands if band.left is not None]
    rights = [band.right for band in bands if band.right is not None]
    return min(lefts, default=None), min(rights, default=None)


def _least(lengths: Sequence[Array]) -> Array | None:
    """The least of lengths (b or 1,), or None of none."""
    return functools.reduce(jnp.minimum, lengths) if lengths else None
