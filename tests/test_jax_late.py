"""Late functions: told the platform where a program is lowered, with derivatives of any order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from equipoise._jax.late import framed, late

_traced = []


def _curve(platform, power, x, y):
    _traced.append(platform)
    return jnp.sin(x) * y**power, jnp.sum(x @ y) * (2.0 if platform == "cpu" else 3.0)


def curve(x, y, power=2):
    kinds = (x.shape, x.dtype), ((), x.dtype)
    return tuple(late(_curve, power, x, y, results=kinds))


def _arrays():
    return jax.random.normal(jax.random.key(0), (2, 3, 3))


def test_late_is_what_the_function_is_on_this_platform():
    x, y = _arrays()
    for run in (curve, jax.jit(curve)):
        for found, wanted in zip(run(x, y), _curve("cpu", 2, x, y), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-12)


def _soft(platform, x, y):
    del platform
    return [jnp.logaddexp(x, y)]


def test_late_keeps_rules_of_derivation_that_a_function_has_of_its_own():
    """At equal arguments, where the difference of two logarithms has no slope of its own."""
    x = jnp.zeros(3)

    def slope(x):
        return jax.grad(lambda x: jnp.sum(late(_soft, x, x, results=[((3,), x.dtype)])[0]))(x)

    np.testing.assert_allclose(slope(x), np.ones(3), rtol=1e-12)
    curvature = jax.jit(lambda x: jax.jvp(slope, (x,), (jnp.ones(3),))[1])
    np.testing.assert_allclose(curvature(x), np.zeros(3), atol=1e-12)


def test_late_is_evaluated_where_nothing_is_compiled():
    x, y = _arrays()
    slope = jax.grad(lambda x: curve(x, y)[1])
    with jax.disable_jit():
        np.testing.assert_allclose(slope(x), 2 * jnp.broadcast_to(y.sum(1), (3, 3)))


def test_late_has_derivatives_of_any_order_and_maps():
    x, y = _arrays()
    check_grads(lambda x, y: curve(x, y), (x, y), order=3, modes=("fwd", "rev"))
    check_grads(lambda x: curve(x, y)[0], (x,), order=2, modes=("fwd", "rev"))
    mapped = jax.vmap(jax.grad(lambda x, y: sum(map(jnp.sum, curve(x, y)))), (1, None))
    xs = jnp.stack([x, y, x + y], axis=1)
    one = jax.grad(lambda x, y: sum(map(jnp.sum, _curve("cpu", 2, x, y))))
    wanted = jnp.stack([one(xs[:, i], y) for i in range(3)])
    np.testing.assert_allclose(mapped(xs, y), wanted, rtol=1e-12)


def test_late_is_told_the_platform_that_a_program_is_lowered_for():
    traced = jax.jit(lambda x, y: jax.grad(lambda x: curve(x, y)[1])(x)).trace(*_arrays())
    texts = {p: traced.lower(lowering_platforms=(p,)).as_text() for p in ("cpu", "cuda", "tpu")}
    found = {p: ("2.000000" in text, "3.000000" in text) for p, text in texts.items()}
    assert found == {"cpu": (True, False), "cuda": (False, True), "tpu": (False, True)}


def test_late_keeps_the_precision_that_was_asked_for_around_it():
    def run(x, y):
        with jax.default_matmul_precision("highest"):
            return curve(x, y)

    text = jax.jit(run).trace(*_arrays()).lower(lowering_platforms=("tpu",)).as_text()
    assert "HIGHEST" in text
    text = jax.jit(curve).trace(*_arrays()).lower(lowering_platforms=("tpu",)).as_text()
    assert "HIGHEST" not in text


@pytest.mark.parametrize("power", [2, np.int32(2), np.array(2)])
def test_late_traces_equal_calls_once(power):
    jax.clear_caches()
    _traced.clear()
    x, y = _arrays()
    text = jax.jit(lambda x: curve(curve(x, y, power)[0], y, power)).lower(x).as_text()
    assert len(_traced) == 1
    assert text.count("stablehlo.sine") == 2


def test_framed_knows_whole_numbers_and_takes_floating_ones_for_arrays():
    tree = {"a": 3, "b": np.arange(2), "c": 0.5, "d": np.ones(2), "e": jnp.arange(2)}
    frame, arrays = framed(tree)
    assert len(arrays) == 3
    assert frame == framed(tree)[0]
    assert hash(frame) == hash(framed(tree)[0])
    assert frame != framed({**tree, "b": np.array([0, 2])})[0]
    assert frame == framed({**tree, "c": 0.25})[0]
    assert frame.whole(arrays)["b"] is tree["b"]
    assert frame.by_leaf([1, 2, 3]) == [None, None, 1, 2, 3]
