"""The figures of variational inference say what the numbers say."""

import dataclasses

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest

from equipoise import plot, vi


@pytest.fixture(autouse=True)
def _closed_figures():
    yield
    plt.close("all")


def title_of(ax):
    return ax.get_title(loc="left") or ax.get_title()


def test_elbo_curve_has_a_band_of_two_errors_and_the_distance_to_the_optimum():
    bounds = vi.Estimate(jnp.array([-5.0, -2.0, -1.5]), jnp.array([1.0, 0.5, 0.25]))
    ax = plot.elbo_curve([0, 10, 20], bounds, optimum=-1.25)
    assert title_of(ax) == "ELBO −1.50 nats, 0.25 below the optimum"
    vertices = ax.collections[0].get_paths()[0].vertices
    at_zero = vertices[vertices[:, 0] == 0, 1]
    assert (at_zero.min(), at_zero.max()) == (-7.0, -3.0)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), bounds.value)
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), -1.25)
    assert title_of(plot.elbo_curve([0, 10, 20], bounds)) == "ELBO −1.50 nats"
    assert ax.get_xlabel()
    assert ax.get_ylabel()


def test_posterior_pair_draws_two_sd_ellipses_and_names_the_worst(rng):
    draws = rng.normal(size=(500, 2))
    draws = (draws - draws.mean(0)) / draws.std(0)
    turned = np.array([[1.0, 0.8], [0.8, 1.0]])
    normals = {"narrow": (np.zeros(2), 0.25 * np.eye(2)), "turned": (np.ones(2), turned)}
    ax = plot.posterior_pair(draws, normals=normals)
    assert title_of(ax) == "narrow: sd off by −50%"
    first, second = ax.patches
    np.testing.assert_allclose([first.width, first.height], 2.0)
    # Axes of a correlation of 0.8: variances 1.8 and 0.2, along the diagonal.
    np.testing.assert_allclose([second.width, second.height], [4 * 1.8**0.5, 4 * 0.2**0.5])
    assert second.angle % 180 == pytest.approx(45)
    assert title_of(plot.posterior_pair(draws)) == "Reference draws"


def test_gradient_noise_names_the_least_noisy_at_both_ends():
    variances = {"first": [1.0, 2.0, 4.0], "second": [8.0, 2.0, 0.5]}
    ax = plot.gradient_noise([0, 1, 2], variances)
    assert title_of(ax) == "Least noise: first first, second last"
    assert ax.get_yscale() == "log"
    for line, values in zip(ax.lines, variances.values(), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), values)
    assert title_of(plot.gradient_noise([0, 1, 2], {"only": [1, 1, 1]})) == "Least noise: only"


def standard_normal(z):
    return -0.5 * jnp.sum(z**2)


@pytest.mark.slow
def test_trust_report_counts_the_trusted_fits():
    def skewed(z):
        return jnp.sum(z - jnp.exp(z))

    fits = {
        "good": vi.fit(standard_normal, jnp.zeros(2), jax.random.key(0)),
        "stopped": vi.fit(skewed, jnp.zeros(2), jax.random.key(0), num_steps=1),
    }
    assert [bool(fit.trusted) for fit in fits.values()] == [True, False]
    ax = plot.trust_report(fits)
    assert title_of(ax) == "1 of 2 fits are trusted"
    texts = [text.get_text() for text in ax.texts]
    assert texts[0].startswith("trusted, ")
    assert texts[1].startswith("not trusted, ")
    found = fits["stopped"].draw_diagnostics
    expected = np.clip(float(found.khat / found.threshold), 0, 3)
    assert ax.patches[1].get_width() == pytest.approx(expected)
    assert ax.patches[0].get_facecolor() != ax.patches[1].get_facecolor()


def test_trust_report_takes_one_fit_or_several_in_order():
    fit = vi.fit(standard_normal, jnp.zeros(2), jax.random.key(0))
    assert title_of(plot.trust_report(fit)) == "1 of 1 fits are trusted"
    labels = [label.get_text() for label in plot.trust_report([fit, fit]).get_yticklabels()]
    assert labels == ["fit 0", "fit 1"]


def test_fit_history_shows_the_steps_and_what_the_draws_say():
    fit = vi.fit(lambda z: jnp.sum(z - jnp.exp(z)), jnp.zeros(2), jax.random.key(0))
    ax = plot.fit_history(fit)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), fit.history)
    np.testing.assert_allclose(ax.lines[1].get_ydata(), fit.elbo.value)
    # Γ(1)² = 1.
    np.testing.assert_allclose(ax.lines[2].get_ydata(), 0.0, atol=0.05)
    said = "trusted" if fit.trusted else "not trusted"
    assert title_of(ax) == f"{len(fit.history)} steps, then draws: {fit.source}, {said}"
    low, high = ax.get_ylim()
    assert low < float(fit.elbo.value) < high


def test_fit_history_has_a_column_for_each_stage_after_the_steps():
    fit = vi.fit(standard_normal, jnp.zeros(2), jax.random.key(0))
    (stage,) = fit.stages
    stages = stage, stage._replace(source="conditional")
    ax = plot.fit_history(dataclasses.replace(fit, source=vi.Source.CONDITIONAL, stages=stages))
    first, second = ax.texts
    assert first.get_text() == "variational, not trusted"
    assert second.get_text() == "conditional, trusted"
    assert len(fit.history) < first.get_position()[0] < second.get_position()[0] < ax.get_xlim()[1]
    # Two columns, and the frame of the one whose draws are used.
    plain, used, frame = ax.patches
    assert used.get_bbox().bounds == frame.get_bbox().bounds != plain.get_bbox().bounds
    assert not frame.get_fill()
    assert max(ax.get_xticks()) <= len(fit.history)


def test_rank_histograms_color_what_is_not_uniform():
    ranks = np.stack([np.arange(100), np.zeros(100, int)], axis=1)
    counts = np.stack([np.full(10, 10), np.append(100, np.zeros(9, int))])
    found = vi.Calibration(
        ranks, counts, np.full(10, 10.0), np.array([0.0, 900.0]), np.array([1.0, 0.0]),
        np.array([True, False]), np.ones(100, bool), ("['a']", "['b']"), 99,
    )  # fmt: skip
    first, second = plot.rank_histograms(found)
    assert title_of(first) == "['b']: p = 0"
    assert title_of(second) == "['a']: p = 1"
    band, expected, shown = second.patches
    np.testing.assert_array_equal(shown.get_data().values, 10)
    np.testing.assert_array_equal(expected.get_data().values, 10)
    # A bin has an sd of 3; the largest of ten is between two and four of them away.
    assert 10 + 6 < band.get_data().values[0] < 10 + 12
    np.testing.assert_allclose(band.get_data().values + band.get_data().baseline, 20)
    assert first.patches[2].get_edgecolor() != second.patches[2].get_edgecolor()
    with pytest.raises(ValueError, match="`ax` must be 2 axes or fewer; got 3 of them"):
        plot.rank_histograms(found, ax=[first, second, first])


def test_latent_map_labels_each_class_at_its_median():
    means = np.array([[0.0, 0.0], [2.0, 2.0], [4.0, 1.0], [10.0, 10.0]])
    ax = plot.latent_map(means, np.array([0, 0, 0, 1]))
    assert [text.get_text() for text in ax.texts] == ["0", "1"]
    np.testing.assert_allclose(ax.texts[0].xy, [2.0, 1.0])
    np.testing.assert_allclose(ax.collections[0].get_offsets(), means)


def test_image_grid_sets_images_row_after_row():
    images = jnp.arange(3.0)[:, None, None] * jnp.ones((3, 2, 2))
    ax = plot.image_grid(images, columns=2, title="three")
    shown = np.asarray(ax.images[0].get_array().filled(np.nan))
    assert shown.shape == (5, 5)
    np.testing.assert_array_equal(shown[:2, 3:], 1.0)
    np.testing.assert_array_equal(shown[3:, :2], 2.0)
    assert np.all(np.isnan(shown[2]))
    assert title_of(ax) == "three"


def test_figures_of_vi_draw_on_given_axes():
    _, ax = plt.subplots()
    assert plot.gradient_noise([0, 1], {"a": [1.0, 2.0]}, ax=ax) is ax
