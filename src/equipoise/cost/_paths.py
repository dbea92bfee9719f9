"""How many steps a signal needs from one position to another."""

from collections.abc import Sequence

import numpy as np

from equipoise._check import at, type_error, value_error
from equipoise.cost._reads.positions import Layer, Point, reached, traced
from equipoise.cost._reads.reach import NONE


@at("cost.path_length")
def path_length(fn: Layer | Sequence[Layer], x: Point, axis: int = 0) -> int:
    r"""Steps that a signal needs between two positions, for the worst of all pairs.

    .. math::

        \ell = \max_{i \ne j} \min_{p : j \to i} \sum_{f \in p} \max(1, s_f),

    where a way p from input j to output i runs through applications of the layers, one after
    another and from the first again, and s_f is the number of loop iterations on the way through
    the application f. So a step is one application, or one iteration of a loop in it.

    Args:
        fn: A layer as a function of one array (weights closed over), applied again and again; or
            several, applied in turn.
        x: An array or :class:`jax.ShapeDtypeStruct` of floats, which gives the sizes; at most 256
            positions.
        axis: The axis of positions, in x and in the result.

    Returns:
        ℓ. Pairs that no number of applications connects do not count; 0 if there is no other
        pair, as for a layer that maps every position alone.

    Raises:
        TypeError: If ``x`` holds no floats, is traced, or ``fn`` is neither function nor functions.
        ValueError: If ``axis`` is not an axis of ``x`` and of the result, or the result of a layer
            has not the positions of x.

    Cost: one run of each layer on abstract arrays, then O(n³·ℓ) in NumPy.

    Examples:
        >>> x = jnp.ones((8, 3))
        >>> cost.path_length(lambda x: jnp.cumsum(x, axis=0), x)
        1
        >>> rnn = layers.elman_rnn(3)
        >>> params = rnn.init(jax.random.key(0))
        >>> cost.path_length(lambda x: rnn.apply(params, x), x)
        8

    References:
        :cite:t:`vaswani2017`, table 1, last column.
    """
    layers = list(fn) if isinstance(fn, Sequence) else [fn]
    if not layers or not all(callable(layer) for layer in layers):
        raise type_error("fn", "must be a function, or several", fn)
    ways = []
    for layer in layers:
        program, point, place = traced(layer, x, axis)
        steps, _ = reached(program, point, place, counts=True)
        if steps.shape[0] != steps.shape[1]:
            raise value_error(
                "fn",
                f"must keep the {steps.shape[1]} positions of `x`",
                f"a layer with {steps.shape[0]}",
            )
        ways.append(np.where(steps == NONE, np.inf, np.maximum(steps, 1)))
    shortest = _shortest(ways)
    np.fill_diagonal(shortest, 0)
    return int(shortest[np.isfinite(shortest)].max())


def _shortest(ways: list[np.ndarray]) -> np.ndarray:
    """Least steps from input j to some output i, entry (i, j), any number of layers away."""
    n = ways[0].shape[0]
    best = np.full((n, n), np.inf)
    # After which layer a signal waits matters: it decides which one comes next.
    before = [np.full((n, n), np.inf) for _ in ways]
    np.fill_diagonal(before[0], 0)
    changed = True
    while changed:
        changed = False
        for phase, way in enumerate(ways):
            after = np.min(way[:, :, None] + before[phase][None], axis=1)
            best = np.minimum(best, after)
            following = (phase + 1) % len(ways)
            shorter = np.minimum(before[following], after)
            changed |= bool((shorter < before[following]).any())
            before[following] = shorter
    return best
