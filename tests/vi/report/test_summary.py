"""Summaries: moments by name, and intervals that hold the truth as often as they say."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import vi
from tests.vi.fit.test_posteriors import FOLDER, build

NAMES = ["['a'][0]", "['a'][1]", "['share'][0]", "['share'][1]", "['share'][2]"]


def mixed(z):
    """Independent normals, and a Dirichlet(2, 3, 4)."""
    normal = -0.5 * jnp.sum(((z["a"] - 3.0) / jnp.array([1.0, 0.5])) ** 2)
    return normal + jnp.sum(jnp.array([1.0, 2.0, 3.0]) * jnp.log(z["share"]))


@pytest.fixture(scope="module")
def fit():
    example = {"a": jnp.zeros(2), "share": jnp.ones(3) / 3}
    support = {"share": vi.simplex()}
    return vi.fit(mixed, example, jax.random.key(0), support=support)


def test_summary_has_a_row_a_number_with_the_moments_of_closed_form(fit):
    found = vi.summary(fit, levels=(0.5,))
    assert list(found.names) == NAMES
    alpha = np.array([2.0, 3.0, 4.0])
    mean = np.append([3.0, 3.0], alpha / 9)
    sd = np.append([1.0, 0.5], np.sqrt(alpha * (9 - alpha) / 810))
    # Five standard errors, which are of the order of 1/√8192.
    assert np.all(np.abs(found.mean - mean) < 5 * found.mean_error)
    assert np.all(np.abs(found.sd - sd) < 5 * found.sd_error)
    np.testing.assert_array_less(found.mean_error, 3 * sd / 8192**0.5)
    np.testing.assert_allclose(found.quantiles[:2, 0], 3.0, atol=5 * 1.26 / 8192**0.5)


def test_summary_has_intervals_of_the_standard_errors(fit):
    found = vi.summary(fit, coverage=0.8)
    z = 1.2815515655446004  # of the normal at 0.9
    error = z * found.mean_error
    np.testing.assert_allclose(found.mean_interval[:, 0], found.mean - error, rtol=1e-9)
    np.testing.assert_allclose(found.mean_interval[:, 1], found.mean + error, rtol=1e-9)
    stretch = np.exp(z * found.sd_error / found.sd)
    np.testing.assert_allclose(found.sd_interval[:, 0], found.sd / stretch, rtol=1e-9)
    np.testing.assert_allclose(found.sd_interval[:, 1], found.sd * stretch, rtol=1e-9)


def test_summary_prints_as_a_table(fit):
    lines = str(vi.summary(fit)).splitlines()
    assert lines[0] == f"Summary. {fit.reason}"
    assert lines[1].split() == ["mean", "error", "90%", "sd", "90%", "0.05", "0.5", "0.95"]
    assert [line.split("  ")[1] for line in lines[2:]] == NAMES
    long = vi.summary(vi.fit(lambda z: -jnp.sum(z**2), jnp.zeros(100), jax.random.key(0)))
    assert repr(long) == str(long)
    assert len(str(long).splitlines()) == 63
    assert "… 40 more" in str(long)
    assert "position[99]" in str(long)


def test_summary_of_weights_that_cannot_be_believed_claims_nothing():
    heavy = lambda z: -0.8 * jnp.log1p(z**2)  # noqa: E731
    fit = vi.fit(heavy, jnp.zeros(()), jax.random.key(0), escalate=False)
    assert fit.verdict is vi.Verdict.HEAVY_TAIL
    found = vi.summary(fit)
    np.testing.assert_array_equal(found.mean_interval, [[-np.inf, np.inf]])
    np.testing.assert_array_equal(found.sd_interval, [[0.0, np.inf]])
    assert np.all(np.isfinite(found.mean))


def test_summary_rejects_levels_that_are_no_shares(fit):
    with pytest.raises(ValueError, match=r"vi.summary: `levels` must lie between 0 and 1; got \("):
        vi.summary(fit, levels=(0.5, 1.0))
    with pytest.raises(ValueError, match="`coverage` must lie between 0 and 1"):
        vi.summary(fit, coverage=90.0)


# Trusted by default and quick, from two to ten coordinates.
REFERENCES = (
    "arK-arK",
    "arma-arma11",
    "earnings-earn_height",
    "earnings-logearn_interaction",
    "earnings-logearn_interaction_z",
    "garch-garch11",
    "hmm_example-hmm_example",
    "kidiq-kidscore_momhsiq",
    "kidiq_with_mom_work-kidscore_interaction_z",
    "kilpisjarvi_mod-kilpisjarvi",
    "low_dim_gauss_mix-low_dim_gauss_mix",
    "mesquite-logmesquite_logvas",
    "mesquite-mesquite",
    "nes1980-nes",
    "nes2000-nes",
    "sblrc-blr",
    "eight_schools-eight_schools_noncentered",
)


def deviations(name, seed):
    """Distances from the reference in units of the errors of both, and of those of the summary."""
    posterior, log_density = build(name)
    reference = json.loads((FOLDER / f"{name}.json").read_text())
    size, at = posterior["dim"], posterior["unconstrain"]
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        # Positions are the reference's own; its density has the volume factor already.
        named = vi.Support(
            "named", lambda shape: (size,), posterior["constrain"], at,
            lambda u: jnp.zeros((), u.dtype), lambda x: jnp.array(True),
        )  # fmt: skip
        example = posterior["constrain"](jnp.zeros(size))
        fit = vi.fit(lambda z: log_density(at(z)), example, jax.random.key(seed), support=named)
        found = vi.summary(fit)
    assert fit.trusted, f"{name}: {fit.reason}"
    means, sds = (np.asarray(found.mean), found.mean_error), (np.asarray(found.sd), found.sd_error)
    return np.concatenate(
        [
            (value - reference[kind]) / np.hypot(error, reference[f"mcse_{kind}"])
            for kind, (value, error) in {"mean": means, "sd": sds}.items()
        ]
    )


@pytest.mark.slow
@pytest.mark.skipif(not FOLDER.is_dir(), reason="no reference posteriors beside the repository")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_intervals_hold_the_true_moments_as_often_as_they_say():
    found = np.abs(np.concatenate([deviations(name, s) for name in REFERENCES for s in (0, 1)]))
    assert found.size >= 300
    # The references have errors too, of 10 000 draws. Numbers of one posterior are correlated, so
    # that the share of 412 is off by about two percent.
    assert 0.85 <= np.mean(found < 1.645) <= 0.95
    assert np.mean(found < 3.3) >= 0.99
