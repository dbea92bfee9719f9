"""The house style changes nothing outside, and its colors are told apart by everybody."""

import inspect
from itertools import combinations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from equipoise import plot
from equipoise.cost import Expression

n = Expression("n")
# What each figure of the area is drawn by; the others are the style itself.
FIGURES = [
    name for name in plot.__all__ if name not in ("COLORS", "styled", "new_axes", "new_grid")
]


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def test_a_figure_changes_no_setting():
    before = dict(mpl.rcParams)
    plot.cost_curves({"a": n**2, "b": 8 * n}, "n", at=[1, 4, 16])
    plot.attention_weights(np.eye(3))
    plot.new_grid(1, 2, size=(4, 2))
    with plot.styled():
        assert mpl.rcParams["axes.titlelocation"] == "left"
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_takes_axes(name):
    parameters = inspect.signature(getattr(plot, name)).parameters
    assert {"ax", "axes"} & set(parameters), f"{name} cannot draw on given axes"


# Machado, Oliveira and Fernandes (2009): full severity, in linear RGB.
DEFICIENCIES = {
    "normal": np.eye(3),
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}


def lightness_and_hue(color, matrix):
    """CIELAB of a color as seen with a deficiency."""
    rgb = np.asarray(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.asarray(matrix) @ linear, 0, 1)
    to_xyz = [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
    xyz = np.asarray(to_xyz) @ linear / [0.95047, 1.0, 1.08883]
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_colors_differ_for_every_reader(deficiency):
    seen = [lightness_and_hue(color, DEFICIENCIES[deficiency]) for color in plot.COLORS]
    apart = [np.linalg.norm(a - b) for a, b in combinations(seen, 2)]
    # A difference of 2.3 is just noticed between large areas; lines need several times that.
    assert min(apart) > 10
