"""As many draws as a verdict needs: more of them, as long as they would change it."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from equipoise.vi._weights.diagnose import summarize
from equipoise.vi._weights.verdict import draws_needed, is_precise
from equipoise.vi._weights.weighted import Weighted, weigh

Draws: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]  # with log p and log q


def grown(draw: Callable[[], Draws], first: Draws, *, num_rounds: int, most: int) -> Weighted:
    """Rounds of draws, weighted together, until they are enough or ``most`` of them are made.

    Up to ``num_rounds`` they go on until nothing is near a limit. After that they go on where
    standard errors alone are too large, at most doubling at a time, as errors are estimates too.
    """
    rounds = [first]
    while True:
        weighted = weigh(*map(np.concatenate, zip(*rounds, strict=True)))
        found, number = summarize(weighted), len(rounds)
        if number < num_rounds:
            wanted = number + (not is_precise(found))
        else:
            wanted = -(-draws_needed(found) // len(first[0]))
        if min(wanted, most) <= number:
            return weighted
        rounds += [draw() for _ in range(min(wanted, most, 2 * number) - number)]
