"""Places where a density may have mass that a normal does not cover, looked for by values alone.

Nothing that is measured on draws of q says what lies where none of them fall. So the density is
asked at points of every distance, around the start in units of 1 and around q in those of its sds,
and at images of the mean of q under what leaves densities alone: other signs, other labels. A
place is of interest where the way to the mean leads through a valley.
"""

import itertools
import math

import numpy as np

from equipoise.vi._families.layout import Layout
from equipoise.vi._stages.beginning import Beginning

_NUM_POINTS, _MAX_SIZE = 4096, 50  # in all, and coordinates above which hardly any hits a thing
_FEWER, _MORE = 1024, 16384  # beyond; and where other modes are known, so that all is dearer
_MAX_IMAGES, _MAX_AXES = 512, 32
_AXIAL = 2 ** np.arange(0.5, 7, 0.5)  # distances along an axis
_NEAREST, _FARTHEST, _IN_LINE = 0.5, 3.0, 3.0  # log2 of others: up to 3, and 6 in one dimension
_SHELLS, _EACH = 8, 8  # of equal numbers of points, and how many of each are asked further
_INSIDE = np.arange(1, 8) / 8  # of the way to the mean
_DEPTH = 1.0  # nats of a valley
_OF_A_KIND = 12  # signs or pairs of labels along an axis
_MOST = 4  # places


def places_elsewhere(
    start: Beginning, center: np.ndarray, known: np.ndarray, least: float
) -> np.ndarray:
    """Points behind a valley, at least ``least`` sds from q; up to four, those of the deepest.

    Points of modes that are known are left out. ``known`` are others to ask too, one a row.
    """
    mean, rng = start.mean, start.rng
    images = np.concatenate([known, _images(rng, mean, start.positions)])
    number = _NUM_POINTS if len(start.modes[0]) == 0 else _MORE
    number = (number if len(mean) <= _MAX_SIZE else _FEWER) - len(images)
    around_q, around_start = (_steps(rng, len(mean), number // 2) for _ in range(2))
    points = np.concatenate([images, mean + start.sds * around_q, center + around_start])
    white = np.linalg.solve(start.factor, (points - mean).T)
    distance = np.linalg.norm(white, axis=0)
    outside = distance > least
    for mode, factor in zip(*start.modes[:2], strict=True):
        away = np.linalg.norm(np.linalg.solve(factor, white - mode[:, None]), axis=0)
        outside &= away > least + len(mean) ** 0.5
    height = start.values(points)
    outside = np.flatnonzero(outside & np.isfinite(height))
    # A normal's density is the same all over a shell: what is much higher than others is no tail.
    shells = np.array_split(outside[np.argsort(distance[outside])], _SHELLS)
    chosen = np.concatenate([shell[np.argsort(-height[shell])[:_EACH]] for shell in shells])
    if not len(chosen):
        return points[:0]
    between = mean + _INSIDE[:, None, None] * (points[chosen] - mean)
    floor = np.min(start.values(between.reshape(-1, len(mean))).reshape(len(_INSIDE), -1), axis=0)
    depth = height[chosen] - floor
    deepest = np.argsort(-depth)[:_MOST]
    return points[chosen[deepest[depth[deepest] > _DEPTH]]]


def _steps(rng: np.random.Generator, d: int, number: int) -> np.ndarray:
    """Steps of every length: along axes, along all of them alike, to corners, and anywhere.

    People and models put modes along axes and at corners, of which a normal cloud meets few.
    """
    axes = np.concatenate([np.ones((1, d)), np.eye(d)[rng.permutation(d)[:_MAX_AXES]]])
    straight = (_AXIAL[:, None, None] * np.concatenate([axes, -axes])).reshape(-1, d)
    straight = straight[rng.permutation(len(straight))[: number // 2]]
    normal = rng.standard_normal((number - len(straight), d))
    normal[::2] = np.sign(normal[::2])
    length = 2 ** rng.uniform(_NEAREST, _FARTHEST + _IN_LINE / d, (len(normal), 1))
    return np.concatenate([straight, length * normal])


def _images(rng: np.random.Generator, mean: np.ndarray, positions: Layout) -> np.ndarray:
    """The mean with other signs of its leaves, and other signs and labels along axes they share.

    The free number of a share changes its sign where the two sides swap, so signs change with
    labels too. Up to 512 images, a random choice where there are more.
    """
    leaves = _leaves(positions)
    turned = [mean] + [_turned(mean, [one, other]) for one in leaves for other in leaves]
    turned.append(-mean)
    images = [*turned]
    for size in sorted({n for leaf in leaves for n in leaf.shape if n > 1}):
        # Rows along every axis of this length, of all leaves that have one.
        rows = [
            np.moveaxis(leaf, leaf.shape.index(size), 0) for leaf in leaves if size in leaf.shape
        ]
        pairs = list(itertools.combinations(range(size), 2))
        for one in rng.permutation(size)[:_OF_A_KIND]:
            images.append(_turned(mean, [row[one] for row in rows]))
        for pair in rng.permutation(pairs)[:_OF_A_KIND]:
            order = np.arange(len(mean))
            for row in rows:
                order[row[pair]] = row[pair[::-1]]
            images += [image[order] for image in turned]
    return rng.permutation(np.unique(images, axis=0))[:_MAX_IMAGES]


def _leaves(positions: Layout) -> list[np.ndarray]:
    """Flat indices in the shapes of leaves."""
    ends = np.cumsum([math.prod(shape) for shape in positions.flat_shapes])
    parts = np.split(np.arange(ends[-1]), ends[:-1])
    return [part.reshape(s) for part, s in zip(parts, positions.flat_shapes, strict=True)]


def _turned(mean: np.ndarray, where: list[np.ndarray]) -> np.ndarray:
    """The mean with other signs at these flat indices."""
    image = mean.copy()
    image[np.concatenate([np.ravel(one) for one in where])] *= -1
    return image
