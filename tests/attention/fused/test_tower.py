"""Which requests reach the kernels, at which order, and that the numbers are the definition's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import attention
from tests.attention.fused.stand_in import as_cuda
from tests.thinned import slow_but

B, T, N, K, H = 2, 24, 4, 2, 8
_rng = np.random.default_rng(0)


def normal(*shape, dtype=jnp.bfloat16):
    return jnp.asarray(_rng.normal(size=shape), dtype)


QUERY, KEY, VALUE = normal(B, T, N, H), normal(B, T, K, H), normal(B, T, K, H)
ARRAYS = {"query": QUERY, "key": KEY, "value": VALUE}
CROSS = {"query": normal(B, 10, N, H), "key": normal(B, 30, K, H), "value": normal(B, 30, K, H)}
MASK = jnp.asarray(_rng.random((B, 1, T, T)) < 0.5).at[..., 0].set(True)
HALF = {name: x.astype(jnp.float16) for name, x in ARRAYS.items()}
LENGTHS = {
    "query_seq_lengths": jnp.array([20, T], jnp.int32),
    "key_value_seq_lengths": jnp.array([9, 0], jnp.int32),
}
# Arrays that move, and options.
SERVED = {
    "full": (ARRAYS, {}),
    "causal": (ARRAYS, {"is_causal": True}),
    "causal mask value": (ARRAYS, {"mask": attention.causal()}),
    "causal, more keys": (CROSS, {"is_causal": True}),
    "causal, more rows": (CROSS | {"query": normal(B, 40, N, H)}, {"is_causal": True}),
    "window": (ARRAYS, {"is_causal": True, "local_window_size": 5}),
    "window beyond the keys": (
        CROSS | {"query": normal(B, 40, N, H)},
        {"is_causal": True, "local_window_size": (3, 0)},
    ),
    "lengths": (ARRAYS, LENGTHS),
    "causal lengths": (ARRAYS, LENGTHS | {"is_causal": True}),
    "one length": (ARRAYS, {"mask": attention.prefix(7)}),
    "bias": (ARRAYS | {"bias": normal(1, N, T, T)}, {"is_causal": True}),
    "bias of entries": (ARRAYS | {"bias": normal(B, 1, T, T)}, LENGTHS),
    "boolean array": (ARRAYS, {"mask": MASK}),
    "bias and boolean array": (ARRAYS | {"bias": normal(B, N, T, T)}, {"mask": MASK}),
    "float16": (HALF, {"is_causal": True}),
    "one key head": (ARRAYS | {"key": normal(B, T, 1, H), "value": normal(B, T, 1, H)}, {}),
    "as many key heads": (ARRAYS | {"key": QUERY, "value": QUERY}, {"is_causal": True}),
    "scale": (ARRAYS, {"scale": 0.7}),
}


def loss(attend, options, arrays):
    out = attend(**arrays, **options)
    return jnp.sum(jnp.sin(out.astype(jnp.float32)))


def orders(attend, options, arrays):
    """Values, gradient, and the tangents of both."""
    along = {name: jnp.ones_like(x) for name, x in arrays.items()}
    slope = jax.grad(functools.partial(loss, attend, options))
    jvp = lambda f, x: jax.jvp(f, (x,), (along,))  # noqa: E731
    return {
        "values": lambda x: attend(**x, **options),
        "gradient": slope,
        "tangent": functools.partial(jvp, lambda x: attend(**x, **options)),
        "hvp": functools.partial(jvp, slope),
    }


def at_once(programs):
    return jax.jit(lambda x: {name: run(x) for name, run in programs.items()})


def wide(arrays):
    return {name: x.astype(jnp.float32) for name, x in arrays.items()}


def assert_close(found, wanted, arrays):
    # Roundings of operands, weights, results and their products to half precision: eight at most
    # in a Hessian-vector product, in sums whose terms cancel to about a third.
    bound = 24 * float(jnp.finfo(arrays["query"].dtype).eps) / 2
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=0, atol=bound * np.abs(b).max())


KERNELS = {
    "values": ["forward"],
    "gradient": ["forward", "backward"],
    "tangent": ["forward"],
    # The gradient whose derivative is taken is the kernel's, its derivative the blocks'.
    "hvp": ["forward", "backward"],
}


# By default a mask by position, by lengths and by an array; sizes and types are slow tests.
REQUESTS = slow_but(SERVED, "causal", "window", "lengths", "bias")


@pytest.mark.parametrize("name", REQUESTS)
def test_dot_product_attention_takes_the_kernels_for_first_order_and_blocks_above(name):
    arrays, options = SERVED[name]
    with as_cuda() as calls:
        ours = orders(attention.dot_product_attention, options, arrays)
        for order, run in ours.items():
            calls.clear()
            jax.jit(run).lower(arrays)
            assert calls == KERNELS[order], order
        found = at_once(ours)(arrays)
    wanted = at_once(orders(attention.reference_attention, options, wide(arrays)))(wide(arrays))
    for order in KERNELS:
        assert_close(found[order], wanted[order], arrays)


UNSERVED = {
    "float32": (wide(ARRAYS), {}),
    "soft cap": (ARRAYS, {"logits_soft_cap": 3.0}),
    "window of both sides": (ARRAYS, {"local_window_size": 3}),
    "strictly causal": (ARRAYS, {"mask": attention.causal(offset=-1)}),
    "segments": (ARRAYS, {"segment_ids": jnp.zeros((B, T), jnp.int32)}),
    "mask function": (ARRAYS, {"mask_fn": lambda b, h, q, k: q >= k}),
    "score function": (ARRAYS, {"score_fn": lambda s, b, h, q, k: s + 1}),
    "offset": (ARRAYS, {"is_causal": True, "query_offset": 2}),
    "dropout": (ARRAYS, {"dropout_rate": 0.5, "dropout_key": jax.random.key(0)}),
    "bias that would be grown": (ARRAYS, {"bias": normal(1, 1, 1, T)}),
    "bias that would be rounded": (ARRAYS, {"bias": normal(1, 1, T, T, dtype=jnp.float32)}),
    "odd rows with a bias": (
        ARRAYS | {"query": normal(B, T - 1, N, H)},
        {"bias": normal(1, 1, T - 1, T)},
    ),
    "head size": ({name: x[..., :7] for name, x in ARRAYS.items()}, {}),
    "size of values": (ARRAYS | {"value": VALUE[..., :4]}, {}),
    "block size": (ARRAYS, {"block_size": 8}),
    "blockwise": (ARRAYS, {"implementation": "blockwise"}),
}


@pytest.mark.parametrize("name", UNSERVED)
def test_dot_product_attention_leaves_to_the_blocks_what_kernels_do_not_serve(name):
    arrays, options = UNSERVED[name]
    with as_cuda() as calls:
        programs = orders(attention.dot_product_attention, options, arrays)
        jax.jit(programs["gradient"]).lower(arrays)
        assert not calls


def test_dot_product_attention_takes_blocks_for_what_its_residual_adds_to_a_gradient():
    def f(attend, arrays):
        out, lse = attend(**arrays, is_causal=True, return_residual=True, sinks=jnp.ones(N))
        return jnp.sum(jnp.sin(out.astype(jnp.float32))) + jnp.sum(jnp.cos(lse))

    slope = jax.grad(functools.partial(f, attention.dot_product_attention))
    reference = jax.grad(functools.partial(f, attention.reference_attention))
    with as_cuda() as calls:
        assert_close(jax.jit(slope)(ARRAYS), reference(wide(ARRAYS)), ARRAYS)
        assert calls == ["forward"]


def slope(attend, arrays, lengths):
    options = {"is_causal": True, "key_value_seq_lengths": lengths}
    return jax.grad(functools.partial(loss, attend, options))(arrays)


@functools.cache
def causal_slope(*lengths):
    """The gradient of causal attention by its definition."""
    reference = jax.jit(functools.partial(slope, attention.reference_attention))
    return reference(wide(ARRAYS), jnp.array(lengths, jnp.int32))


def entry_by_entry(run):
    """The same of entries that a transformation takes one by one, each a batch of one."""
    each = lambda x: x[:, None]  # noqa: E731
    first = lambda x: x[:, 0]  # noqa: E731
    return lambda *args: jax.tree.map(first, run(*jax.tree.map(each, args)))


TRANSFORMS = {
    "eager": lambda f: f,
    "jit": jax.jit,
    "vmap": lambda f: jax.jit(entry_by_entry(jax.vmap(f))),
    "vmap over the last axis": lambda f: jax.jit(
        lambda *args: jax.vmap(f, -1, -1)(*jax.tree.map(lambda x: jnp.stack([x, x], -1), args))
    ),
    "scan": lambda f: jax.jit(
        entry_by_entry(lambda *args: jax.lax.scan(lambda _, x: (None, f(*x)), None, args)[1])
    ),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_dot_product_attention_keeps_the_kernels_under(name):
    with as_cuda() as calls:
        run = TRANSFORMS[name](functools.partial(slope, attention.dot_product_attention))
        found = run(ARRAYS, jnp.array([9, T], jnp.int32))
        assert sorted(calls) == ["backward", "forward"]
    if "last" in name:
        found = jax.tree.map(lambda x: x[..., 1], found)
    assert_close(found, causal_slope(9, T), ARRAYS)


def test_dot_product_attention_keeps_the_kernels_under_checkpoint():
    attend = jax.checkpoint(functools.partial(attention.dot_product_attention, is_causal=True))
    with as_cuda() as calls:
        found = jax.jit(jax.grad(functools.partial(loss, attend, {})))(ARRAYS)
        assert set(calls) == {"backward", "forward"}
    assert_close(found, causal_slope(T, T), ARRAYS)


def test_dot_product_attention_maps_shared_keys_by_blocks_without_copies():
    queries = jnp.stack([QUERY, 2 * QUERY])
    attend = functools.partial(attention.dot_product_attention, is_causal=True)
    with as_cuda() as calls:
        found = jax.jit(jax.vmap(attend, (0, None, None)))(queries, KEY, VALUE)
        assert not calls
        forced = functools.partial(attend, implementation="cudnn")
        copied = jax.jit(jax.vmap(forced, (0, None, None)))(queries, KEY, VALUE)
        assert calls == ["forward"]
    for x in (found, copied):
        for i in range(2):
            whole = (y.astype(jnp.float32) for y in (queries[i], KEY, VALUE))
            wanted = attention.reference_attention(*whole, is_causal=True)
            assert_close(x[i], wanted, ARRAYS)


def test_dot_product_attention_sums_over_devices_what_they_share():
    """Inside of shard_map, keys replicated: their cotangents are summed, by kernel or by blocks."""
    mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    P = jax.sharding.PartitionSpec
    attend = jax.shard_map(
        functools.partial(attention.dot_product_attention, is_causal=True),
        mesh=mesh,
        in_specs=(P("i"), P(), P()),
        out_specs=P("i"),
    )
    f = lambda x: jnp.sum(jnp.sin(attend(*(x[name] for name in ARRAYS)).astype(jnp.float32)))  # noqa: E731
    with as_cuda() as calls:
        assert_close(jax.jit(jax.grad(f))(ARRAYS), causal_slope(T, T), ARRAYS)
        assert calls == ["forward", "backward"]
