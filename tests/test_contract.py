"""Every public name: jit is eager, vmap is a loop, finite gradients, one trace, same bits.

And few programs where it is called by itself, so that a first call does not wait for a chain of
small ones.
"""

import importlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.contract import Case, Pytree, Static
from tests.vi.programs import counted

AREAS = ("attention", "cost", "games", "layers", "vi")
# Layers and attention are parts of a user's program more often than they are called by themselves.
BY_THEMSELVES = ("cost", "games", "vi")
MOST_PROGRAMS = 8


def cases(area):
    return importlib.import_module(f"tests.{area}.contract_cases").CASES


def names(kind):
    return [
        pytest.param(area, name, id=f"{area}.{name}")
        for area in AREAS
        for name, case in cases(area).items()
        if isinstance(case, kind)
    ]


def is_float(leaf):
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)


def assert_close(actual, desired, rtol):
    chex.assert_trees_all_equal_structs(actual, desired)
    for a, d in zip(jax.tree.leaves(actual), jax.tree.leaves(desired), strict=True):
        if is_float(d):
            scale = np.max(np.abs(np.where(np.isfinite(d), d, 0)), initial=0) if np.size(d) else 0
            np.testing.assert_allclose(a, d, rtol=rtol, atol=rtol * float(scale))
        else:
            chex.assert_trees_all_equal(a, d)


@pytest.mark.parametrize("area", AREAS)
def test_every_public_name_has_a_case(area):
    module = importlib.import_module(f"equipoise.{area}")
    assert len(set(module.__all__)) == len(module.__all__)
    assert set(module.__all__) == set(cases(area))
    for name, case in cases(area).items():
        assert hasattr(module, name)
        if isinstance(case, Static) or not (case_is_full(case)):
            assert case.why, f"{area}.{name} must say why"


def case_is_full(case):
    return isinstance(case, Pytree) or (case.vmap and case.grad)


@pytest.mark.parametrize(("area", "name"), names(Case))
def test_function_keeps_the_contract(area, name):
    case = cases(area)[name]
    args = in_memory(case.arrays())
    eager, num_programs = first_call(case, args)
    assert num_programs <= MOST_PROGRAMS or area not in BY_THEMSELVES
    jitted = one_trace_and_equal_bits(case, args)
    assert_close(jitted(*args), eager, case.rtol)
    no_float64_leaks_when_it_is_off(case, args, jitted)
    if case.vmap:
        vmap_equals_a_loop(case, args, jitted)
    if case.grad:
        gradients_are_finite(case, args)


def in_memory(args):
    """Floats as NumPy arrays, of which copies, rows and stacks are no programs to compile."""
    return jax.tree.map(lambda leaf: np.asarray(leaf) if is_float(leaf) else leaf, args)


def one_trace_and_equal_bits(case, args):
    traces = []

    def counted(*args):
        traces.append(None)
        return case.fn(*args)

    jitted = jax.jit(counted)
    first = jitted(*args)
    again = jitted(*jax.tree.map(lambda leaf: leaf.copy() if is_float(leaf) else leaf, args))
    assert len(traces) == 1
    chex.assert_trees_all_equal(first, again)
    return jitted


def first_call(case, args):
    """What the function returns outside of any program, and how many it compiles for that."""
    args = jax.block_until_ready(jax.tree.map(jnp.asarray, args))
    return counting(lambda: case.fn(*args))


def counting(call):
    """What a call returns, and how many programs it compiles as the first of a process."""
    jax.clear_caches()
    with counted() as programs:
        found = call()
    return found, len(programs)


def vmap_equals_a_loop(case, args, jitted):
    rows = [args, jax.tree.map(lambda leaf: leaf * 0.75 if is_float(leaf) else leaf, args)]

    def stacked(*leaves):
        return np.stack(leaves) if is_float(leaves[0]) else jnp.stack(leaves)

    mapped = jax.jit(jax.vmap(case.fn))(*jax.tree.map(stacked, *rows))
    for i, row in enumerate(rows):
        found = jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i], mapped)
        assert_close(found, jax.tree.map(np.asarray, jitted(*row)), case.rtol)


def gradients_are_finite(case, args):
    floats, rebuild = split(args)

    def total(floats):
        leaves = [leaf for leaf in jax.tree.leaves(case.fn(*rebuild(floats))) if is_float(leaf)]
        return sum(jnp.sum(jnp.where(jnp.isfinite(leaf), leaf, 0)) for leaf in leaves)

    gradients = jax.jit(jax.grad(total))(floats)
    assert gradients
    assert any(np.any(np.asarray(g) != 0) for g in gradients), "no input has an influence"
    assert all(np.all(np.isfinite(g)) for g in gradients)


def no_float64_leaks_when_it_is_off(case, args, jitted):
    args32 = jax.tree.map(lambda leaf: leaf.astype(np.float32) if is_float(leaf) else leaf, args)
    with jax.enable_x64(False):
        values = jax.jit(case.fn)(*args32)
    for leaf in jax.tree.leaves(values):
        assert leaf.dtype not in (jnp.float64, jnp.complex128)
    for a, d in zip(jax.tree.leaves(values), jax.tree.leaves(jitted(*args)), strict=True):
        if is_float(d):
            scale = float(np.max(np.abs(np.where(np.isfinite(d), d, 0)), initial=0))
            np.testing.assert_allclose(a, d, rtol=case.rtol_float32, atol=case.rtol_float32 * scale)


@pytest.mark.parametrize(("area", "name"), names(Pytree))
def test_results_survive_flattening_and_print(area, name):
    instance, num_programs = counting(cases(area)[name].make)
    assert num_programs <= MOST_PROGRAMS or area not in BY_THEMSELVES
    assert type(instance).__name__ == name
    leaves, structure = jax.tree.flatten(instance)
    chex.assert_trees_all_equal(jax.tree.unflatten(structure, leaves), instance)
    assert repr(instance) == str(instance)
    assert " at 0x" not in repr(instance)
    # Where a transformation holds the leaves: unknown, in batches, or none at all.
    jax.eval_shape(lambda x: (repr(x), 0)[1], instance)
    repr(jax.tree.map(lambda x: np.stack([x, x]), instance))
    repr(jax.tree.map(lambda _: object(), instance))
    lines = str(instance).splitlines()
    assert 1 <= len(lines) <= 40
    assert max(map(len, lines)) <= 120


def split(args):
    leaves, structure = jax.tree.flatten(args)
    where = [i for i, leaf in enumerate(leaves) if is_float(leaf)]

    def rebuild(floats):
        new = list(leaves)
        for i, leaf in zip(where, floats, strict=True):
            new[i] = leaf
        return jax.tree.unflatten(structure, new)

    return [leaves[i] for i in where], rebuild
