"""The bar of a fit: of tqdm, plain lines without it, and no cost where nobody looks."""

import importlib.util

import chex
import jax.numpy as jnp
import optax
import pytest

from equipoise import vi
from equipoise.vi._steps import descent
from tests.vi.programs import counted

OPTIONS = {"family": vi.mean_field, "optimizer": optax.adam(0.05), "num_steps": 200}


def skewed(z):
    return jnp.sum(z - jnp.exp(z))


@pytest.fixture
def runs(monkeypatch):
    """How often the compiled loop is called."""
    calls, run = [], vars(descent)["_run"]
    monkeypatch.setattr(descent, "_run", lambda *args: (calls.append(None), run(*args))[1])
    return calls


def test_progress_shows_a_bar_and_changes_nothing(key, capsys, runs):
    pytest.importorskip("tqdm")
    quiet = vi.fit(skewed, jnp.zeros(2), key, **OPTIONS)
    assert len(runs) == 1
    assert capsys.readouterr() == ("", "")
    with counted() as compiled:
        fit = vi.fit(skewed, jnp.zeros(2), key, progress=True, **OPTIONS)
    assert not compiled
    assert len(runs) == 1 + 20
    chex.assert_trees_all_equal(fit.state, quiet.state)
    out, shown = capsys.readouterr()
    assert "200/200" in shown
    assert f"ELBO {float(fit.history[-1]):.6g}" in shown
    assert not out


def test_progress_of_a_fit_that_converges_ends_where_it_ended(key, capsys):
    pytest.importorskip("tqdm")
    fit = vi.fit(skewed, jnp.zeros(2), key, progress=True)
    assert f"{len(fit.history)}/{len(fit.history)}" in capsys.readouterr().err


def test_progress_without_tqdm_is_plain_lines(key, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "tqdm" else find(name, *a)
    )
    fit = vi.fit(skewed, jnp.zeros(2), key, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == f"step {len(fit.history)}, ELBO {float(fit.history[-1]):.6g}"
    vi.fit(skewed, jnp.zeros(2), key, progress=False)
    assert not capsys.readouterr().err
