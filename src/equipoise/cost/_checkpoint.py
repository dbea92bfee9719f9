"""Which checkpoint policy fits into memory at the least work."""

import dataclasses

import jax

from equipoise._check import at, value_error
from equipoise._types import PyTree, aligned, static_result
from equipoise.cost._analyze import Cost
from equipoise.cost._expression.amount import amount, in_bytes
from equipoise.cost._expression.polynomial import Number
from equipoise.cost._program.arguments import structures
from equipoise.cost._program.modules import closed_over
from equipoise.cost._program.sizes import parse
from equipoise.cost._program.trace import Function
from equipoise.cost._training import under_policies


@static_result
class Checkpoints:
    """What each policy of :func:`jax.checkpoint` keeps and computes, one row each.

    Attributes:
        best: The policy that fits at the least work; None where none fits.
        policies: Their names, in :data:`jax.checkpoint_policies`.
        costs: Both passes of training under each.
        peak_bytes: Bytes alive at the worst moment under each, at the given sizes, checkpoints
            kept as compilers for GPU and TPU keep them (``Cost.checkpointed_peak_bytes``).
        residual_bytes: Bytes kept between the passes under each.
        flops: Operations under each.
    """

    best: str | None
    policies: tuple[str, ...]
    costs: tuple[Cost, ...] = dataclasses.field(repr=False)
    peak_bytes: tuple[Number, ...]
    residual_bytes: tuple[Number, ...]
    flops: tuple[Number, ...]

    def __str__(self) -> str:
        columns = zip(self.policies, self.peak_bytes, self.residual_bytes, self.flops, strict=True)
        rows: list[list[object]] = [
            [f"{'*' if name == self.best else ' '} {name}", in_bytes(p), in_bytes(r), f"{w:.4g}"]
            for name, p, r, w in ((n, p, r, float(w)) for n, p, r, w in columns)
        ]
        header = ["  policy", "peak_bytes", "residual_bytes", "flops"]
        return f"Checkpoints: {self.best or 'none fits'}\n{aligned(rows, header=header)}"


@at("cost.best_checkpoint")
def best_checkpoint(
    fn: Function, /, *args: PyTree, at_most: int | str, **sizes: int
) -> Checkpoints:
    r"""Policy of :func:`jax.checkpoint` that fits into memory at least work.

    With W and M the work and the peak memory of both passes under the policy p,

    .. math::

        p^* = \operatorname{arg\,min}_{p :\, M(p) \le M_{\max}} W(p)

    Args:
        fn: The function to differentiate. The policy is put around all of it, and what it
            does not keep is computed again at once: of a deep model, ask for one layer.
        args: Arrays, :class:`jax.ShapeDtypeStruct` or strings, as for :func:`analyze`.
        at_most: The bound: bytes, or an amount such as ``"80 GB"``.
        sizes: A number for every size that ``args`` name.

    Returns:
        :class:`Checkpoints`: the best policy, and what all of them cost. Of policies with equal
        work the first in the list is taken, which keeps most.

    Raises:
        ValueError: If a size is missing, ``at_most`` is no amount, or as for :func:`analyze`.
        TypeError: If an argument is neither an array nor a shape.

    Cost: A trace with its derivative and three walks for each of four policies.

    Examples:
        >>> def deep(x):
        ...     for _ in range(8):
        ...         x = jnp.sin(x) @ x
        ...     return x
        >>> found = cost.best_checkpoint(deep, "f32[n,n]", at_most="100 kB", n=64)
        >>> print(found.best)
        None
        >>> cost.best_checkpoint(deep, "f32[n,n]", at_most="1 MB", n=64).best
        'everything_saveable'

    References:
        :cite:t:`chen2016`.
    """
    bound = amount("at_most", at_most)
    fn, args = closed_over(fn, args)
    shapes = structures(args, ())
    named = {
        name
        for leaf in jax.tree.leaves(shapes)
        for size in getattr(leaf, "shape", ())
        for name in parse(str(size)).names
    }
    if missing := sorted(named - set(sizes)):
        raise value_error(missing[0], "must be given a size", f"sizes for {', '.join(sizes)}")
    found = under_policies(fn, shapes, (), ())
    policies, costs = tuple(found), tuple(found.values())
    peaks = [c.checkpointed_peak_bytes.evaluate(**sizes) for c in costs]
    kept = [c.residual_bytes.evaluate(**sizes) for c in costs if c.residual_bytes is not None]
    work = [c.flops.evaluate(**sizes) for c in costs]
    fitting = [i for i in range(len(costs)) if peaks[i] <= bound]
    return Checkpoints(
        best=policies[min(fitting, key=lambda i: work[i])] if fitting else None,
        policies=policies,
        costs=costs,
        peak_bytes=tuple(peaks),
        residual_bytes=tuple(kept),
        flops=tuple(work),
    )
