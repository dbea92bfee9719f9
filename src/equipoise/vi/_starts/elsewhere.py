"""Places where a density may have mass that a normal does not cover, looked for by values alone.

Nothing that is measured on draws of q says what lies where none of them fall. So the density is
asked at points of every distance, around the start in units of 1 and around q in those of its sds,
and at images of the mean of q under what leaves densities alone: other signs, other labels. Those
that are higher than others as far away are asked further: a place is of interest where a ray from
the mean leads through a valley. Gradients lead to places too, from far away: half of all directions
are nearer to another mode that is as wide as q, in any number of coordinates. A narrow mode is felt
some sds around it and nowhere else, so what this finds of those off all axes and corners falls with
the number of coordinates.
"""

import itertools
import math

import numpy as np

from equipoise.vi._families.layout import Layout
from equipoise.vi._starts.normals import DISTINCT, Local
from equipoise.vi._target.target import Target

_NUM_POINTS, _MAX_SIZE = 3840, 50  # in all, and coordinates above which hardly any hits a thing
_FEWER, _MORE = 768, 16128  # beyond; and where other modes are known, so that all is dearer
_MAX_IMAGES, _MAX_AXES = 512, 32
_AXIAL = 2 ** np.arange(0.5, 7, 0.5)  # distances along an axis
_CORNERS, _TO_CORNERS = 8, (0.5, 3.0, 3.0)  # for each of them; log2 of steps along all axes
_ANYWHERE = 1.8, 4.0, 2.0  # log2 of distances: the least, the largest, and more in one dimension
_PULLED, _STEPS, _FAR = 32, 4, (3.0, 6.0)  # pairs of points, their steps, log2 of distances
_SHELLS, _EACH = 16, 4  # of equal numbers of points, and how many of each are asked further
_RAY = np.arange(1, 12) / 8  # of the way from the mean, and beyond
_DEPTH = 1.0  # nats of a valley
_OF_A_KIND = 12  # signs or pairs of labels along an axis
_MOST = 4  # places


def places_elsewhere(
    target: Target,
    normal: tuple[np.ndarray, np.ndarray],
    modes: Local,
    center: np.ndarray,
    known: np.ndarray,
    rng: np.random.Generator,
    most: int,
) -> np.ndarray:
    """Points behind a valley, far from q; up to four, those of the deepest.

    Points of modes that are known are left out. ``known`` are others to ask too, one a row, and
    ``most`` is how many may be asked in all, but for rays.
    """
    mean, factor = normal
    d, sds = len(mean), np.linalg.norm(factor, axis=1)
    images = np.concatenate([known, _images(rng, mean, target.positions)])[: most // 2]
    number = _NUM_POINTS if len(modes.elbo) == 0 else _MORE
    number = min(number if d <= _MAX_SIZE else _FEWER, most) - len(images)
    pulled = _pulled(target, normal, rng, min(_PULLED, number // (8 * _STEPS)))
    number -= (1 + _STEPS) * len(pulled)
    around_q, around_start = (_steps(rng, d, number // 2) for _ in range(2))
    points = np.concatenate([images, pulled, mean + sds * around_q, center + around_start])
    white = np.linalg.solve(factor, (points - mean).T)
    distance = np.linalg.norm(white, axis=0)
    outside = distance > DISTINCT
    for mode, spread in zip(modes.mean, modes.factor, strict=True):
        away = np.linalg.norm(np.linalg.solve(spread, white - mode[:, None]), axis=0)
        outside &= away > DISTINCT + d**0.5
    height = target.values(points)
    outside = np.flatnonzero(outside & np.isfinite(height))
    shells = np.array_split(outside[np.argsort(distance[outside])], _SHELLS)
    chosen = np.concatenate([_highest(shell, distance, height) for shell in shells])
    if not len(chosen):
        return points[:0]
    rays = mean + _RAY[:, None, None] * (points[chosen] - mean)
    along = target.values(rays.reshape(-1, d)).reshape(len(_RAY), -1)
    along = np.where(np.isnan(along), -np.inf, along)
    depths = along - np.minimum.accumulate(along, axis=0)
    depths = np.where(np.isfinite(depths), depths, -np.inf)
    where = np.argmax(depths, axis=0), np.arange(len(chosen))
    depth, places = depths[where], rays[where]
    deepest = np.argsort(-depth)[:_MOST]
    return places[deepest[depth[deepest] > _DEPTH]]


@np.errstate(all="ignore")  # a point stays where something is not finite
def _pulled(
    target: Target, normal: tuple[np.ndarray, np.ndarray], rng: np.random.Generator, pairs: int
) -> np.ndarray:
    """Where gradients lead to from points far away on both sides.

    The first step is Newton's if the mode there is as wide as q, and later ones are as long as the
    change of gradients says. One that lowers the density is undone.
    """
    mean, factor = normal
    ways = rng.standard_normal((pairs, len(mean)))
    ways *= _lengths(rng, pairs, len(mean), *_FAR, 0.0) / np.linalg.norm(ways, axis=1)[:, None]
    there = z = np.concatenate([ways, -ways])
    value, pull, rate = np.full((len(z), 1), -np.inf), np.zeros_like(z), np.ones((len(z), 1))
    for _ in range(_STEPS):
        new, slope = target.gradients(mean + there @ factor.T)
        new, slope, step = new[:, None], slope @ factor, there - z
        better = (new >= value) & np.all(np.isfinite(slope), axis=1, keepdims=True)
        length, bend = (np.sum(step * x, axis=1, keepdims=True) for x in (step, pull - slope))
        known = (bend > 0) & np.isfinite(length / bend)
        rate = np.where(known, length / bend, np.where(better, rate, rate / 4))
        value, z = np.where(better, new, value), np.where(better, there, z)
        pull = np.where(better, slope, pull)
        there = z + rate * pull
    return mean + z @ factor.T


def _highest(shell: np.ndarray, distance: np.ndarray, height: np.ndarray) -> np.ndarray:
    """The points of a shell that are the highest for their distance."""
    if len(shell) <= _EACH:
        return shell
    far, high = distance[shell] / np.max(distance[shell]), height[shell]
    # Logarithms fall like this in tails, of a power or of a normal.
    expected = np.stack([np.ones_like(far), np.log(far), far**2], axis=1)
    residual = high - expected @ np.linalg.lstsq(expected, high)[0]
    return shell[np.argsort(-residual)[:_EACH]]


def _steps(rng: np.random.Generator, d: int, number: int) -> np.ndarray:
    """Steps of every length: along axes, along all of them alike, to corners, and anywhere.

    People and models put modes along axes and at corners, of which a normal cloud meets few.
    """
    axes = np.concatenate([np.ones((1, d)), np.eye(d)[rng.permutation(d)[:_MAX_AXES]]])
    straight = (_AXIAL[:, None, None] * np.concatenate([axes, -axes])).reshape(-1, d)
    straight = straight[rng.permutation(len(straight))[: number // 4]]
    rest = number - len(straight)
    corners = min(rest // 3, _CORNERS * 2 ** min(d, 30))
    signs = np.sign(rng.standard_normal((corners, d)))
    ways = rng.standard_normal((rest - corners, d))
    ways /= np.linalg.norm(ways, axis=1)[:, None]
    lengths = (_lengths(rng, len(x), d, *r) for x, r in ((signs, _TO_CORNERS), (ways, _ANYWHERE)))
    return np.concatenate([straight, *(n * x for n, x in zip(lengths, (signs, ways), strict=True))])


def _lengths(
    rng: np.random.Generator, number: int, d: int, least: float, most: float, in_line: float
) -> np.ndarray:
    """Lengths of equal shares on a logarithmic scale, in random order."""
    level = (rng.permutation(number) + rng.random(number)) / max(number, 1)
    lengths: np.ndarray = 2 ** (least + (most + in_line / d - least) * level)
    return lengths[:, None]


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
