"""Programs that are called again are walked once, and count as often as they are called."""

import functools

import jax
import jax.numpy as jnp
import pytest

from equipoise import cost
from equipoise.cost._count import walk

MEASURES = ("flops", "depth", "log_depth", "bytes_read", "bytes_written", "peak_bytes")
WEIGHTS = {"a": "f32[d,d]", "b": "f32[1,d]"}


def layer(w, x):
    return jnp.tanh(jax.nn.softmax(x @ w["a"], -1) + w["b"]) * 2


def stack(layer, params, x):
    return functools.reduce(lambda x, w: layer(w, x), params, x)


@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint], ids=["jit", "checkpoint"])
def test_analyze_counts_a_call_as_what_it_calls(wrap):
    sizes = {"n": 5, "d": 7}
    args = ([WEIGHTS] * 6, "f32[n,d]")
    written = cost.analyze(functools.partial(stack, layer), *args)
    called = cost.analyze(functools.partial(stack, wrap(layer)), *args)
    for measure in MEASURES:
        expected = getattr(written, measure).evaluate(**sizes)
        assert getattr(called, measure).evaluate(**sizes) == expected, measure
    assert called.by("line") == written.by("line")


def test_analyze_walks_a_program_once_that_is_called_again(monkeypatch):
    walks = []
    plain = walk.walk

    def counted(program, *rest):
        walks.append(program)
        return plain(program, *rest)

    monkeypatch.setattr(walk, "walk", counted)
    lengths = []
    for times in (3, 30):
        walks.clear()
        cost.analyze(functools.partial(stack, jax.jit(layer)), [WEIGHTS] * times, "f32[n,d]")
        lengths.append(len(walks))
    assert lengths[0] == lengths[1]


def test_analyze_keeps_apart_calls_that_differ():
    @jax.jit
    def halves(x, n):
        return jax.lax.fori_loop(0, n, lambda _, x: jnp.sin(x), x)

    found = cost.analyze(lambda x: halves(halves(x, 3), 5), "f32[n]")
    assert str(found.transcendental_flops) in ("8*n", "n*trips_1 + n*trips_2")
    stated = cost.analyze(lambda x: halves(halves(x, 3), 5), "f32[n]", trips=[3, 5])
    assert stated.transcendental_flops.evaluate(n=2) == 16
