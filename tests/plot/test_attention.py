"""Figures of attention show the numbers that they are given."""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest

from equipoise import attention, plot


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def test_attention_weights_shows_every_weight_and_leaves_masked_pairs_blank(rng):
    weights = np.tril(rng.uniform(0.1, 1, size=(4, 4)))
    ax = plot.attention_weights(weights, query_labels=list("abcd"), key_labels=list("wxyz"))
    picture = ax.images[0].get_array()
    np.testing.assert_array_equal(picture.filled(0), weights)
    np.testing.assert_array_equal(picture.mask, weights == 0)
    assert [text.get_text() for text in ax.get_yticklabels()] == list("abcd")
    other = plt.figure().add_subplot()
    assert plot.attention_weights(weights, ax=other) is other


def test_attention_weights_title_counts_the_keys_read():
    # Uniform over one, two and three keys.
    title = plot.attention_weights(np.tri(3) / np.arange(1, 4)[:, None]).get_title(loc="left")
    assert title == "A row reads 1 to 3 keys"
    assert plot.attention_weights(np.eye(2)).get_title(loc="left") == "Every row reads 1 key"


def test_attention_weights_rejects_what_cannot_be_seen():
    with pytest.raises(ValueError, match="`weights` must have shape"):
        plot.attention_weights(np.ones(3))
    with pytest.raises(ValueError, match="`weights` must have at most 512"):
        plot.attention_weights(np.ones((513, 2)))


def statistics(t, batch=()):
    zeros = jnp.zeros((*batch, t, 2))
    return attention.AttentionStatistics(
        entropy=jnp.broadcast_to(jnp.log(jnp.arange(1.0, t + 1))[:, None], zeros.shape),
        top_weights=zeros[..., None],
        top_indices=zeros[..., None].astype(int),
        key_mass=zeros + 0.5,
        log_sum_exp=zeros,
        block=None,
    )


def test_attention_rows_draws_the_count_of_keys_and_the_mass():
    figure = plot.attention_rows(statistics(50), heads=[1])
    left, right = figure.axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), np.arange(1, 51))
    np.testing.assert_allclose(right.lines[0].get_ydata(), 0.5)
    assert len(left.lines) == 1
    assert left.get_title(loc="left") == "Head 1 reads the fewest keys: 25.5 on average"
    assert right.get_title(loc="left") == "Key 0 gets the most weight: 0.5"


def test_figures_of_two_panels_draw_on_given_axes():
    figure, axes = plt.subplots(1, 2)
    assert plot.attention_rows(statistics(5), ax=axes) is figure
    assert axes[0].lines
    assert axes[1].lines
    figure, axes = plt.subplots(1, 2)
    assert plot.attention_costs([1, 2], {"ours": [1, 2]}, {"ours": [1, 2]}, ax=axes) is figure
    with pytest.raises(ValueError, match=r"plot.attention_rows: `ax` must be two axes"):
        plot.attention_rows(statistics(5), ax=axes[:1])


def test_attention_rows_averages_long_inputs():
    left, _ = plot.attention_rows(statistics(1000)).axes
    x, y = left.lines[0].get_data()
    assert len(x) == 200
    np.testing.assert_allclose(y, np.arange(3, 1000, 5))


def test_attention_rows_rejects_batches():
    with pytest.raises(ValueError, match="`statistics` must be of one batch entry"):
        plot.attention_rows(statistics(4, (3,)))


def test_attention_costs_draws_each_series_and_two_slopes():
    figure = plot.attention_costs(
        [256, 512], {"ours": [2**20, 2**21], "theirs": [2**22, np.nan]}, {"ours": [1.0, 2.0]}
    )
    left, right = figure.axes
    np.testing.assert_array_equal(left.lines[0].get_ydata(), [1, 2])
    np.testing.assert_array_equal(right.lines[0].get_ydata(), [1, 2])
    assert len(left.lines) == 4
    assert left.get_title(loc="left") == "ours needs least memory at T = 512"
    np.testing.assert_array_equal(left.lines[3].get_ydata(), [1, 4])


def test_attention_costs_rejects_other_lengths():
    with pytest.raises(ValueError, match="`memory` must have 2 numbers for 'ours'"):
        plot.attention_costs([1, 2], {"ours": [1.0]}, {})
