"""Programs are few and small: counted, since time would depend on the machine."""

import functools
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import attention, layers
from equipoise.attention._kernel import at_once as _at_once
from equipoise.attention._kernel import blockwise as _blockwise
from equipoise.attention._kernel import tangent as _tangent
from equipoise.attention._kernel.schedule import grid_of

ROOT = pathlib.Path(__file__).parents[3]
H = 4
# Length and size of blocks.
SIZES = {"one block": (16, None), "many blocks": (64, 16)}


def arrays(length, heads=2):
    return [np.ones((1, length, heads, H), np.float32)] * 3


def orders(block_size, **options):
    def f(q, k, v):
        return attention.dot_product_attention(q, k, v, block_size=block_size, **options)

    gradient = jax.grad(lambda *a: jnp.sum(f(*a) ** 2), (0, 1, 2))
    return f, gradient, lambda *a: jax.jvp(gradient, a, a)[1]


@pytest.fixture
def compilations():
    """The names of the programs that are compiled meanwhile."""
    found = []

    def listen(event, _, **about):
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(about.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    jax.clear_caches()
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_dot_product_attention_called_eagerly_is_one_program(compilations, size, is_causal):
    length, block_size = SIZES[size]
    x = jax.device_put(arrays(length)[0])
    attention.dot_product_attention(x, x, x, is_causal=is_causal, block_size=block_size)
    assert len(compilations) == 1, compilations


def _mask(x):
    return jax.device_put(np.ones(x.shape[1], bool))


LAYER = layers.transformer_block(8, num_heads=2, is_causal=True)
EAGER = {
    "reference": lambda x: attention.reference_attention(x, x, x, is_causal=True),
    "scores": lambda x: attention.reference_attention(
        x, x, x, sinks=x[0, 0, :, 0], return_residual=True, return_scores=True
    ),
    "statistics": lambda x: attention.attention_statistics(
        x, x, mask=attention.causal(), top_k=2, block=((0, 2), (1, 3))
    ),
    "linear": lambda x: attention.linear_attention(x, x, x, _mask(x)),
    "recurrent": lambda x: attention.linear_attention(x, x, x, is_causal=True, form="recurrent"),
    "rotary": lambda x: attention.rotary_embedding(x, offset=3),
    "layer": lambda x: LAYER.apply(_params(), x[0, :, 0]),
    "draws": lambda x: LAYER.init(_key()),
    "decoding": lambda x: attention.decode_step(
        _cache(), x, x, x, entries=np.array([1]), score_fn=attention.alibi(2)
    ),
    "appending": lambda x: attention.append_to_cache(_cache(), x, x, entries=np.array([1])),
    "pages": lambda x: attention.reserve_pages(_cache(), np.array([3, 8])),
    "evicting": lambda x: attention.evict_from_cache(_cache(), np.array([1])),
}


@functools.cache
def _cache():
    cache = attention.init_cache(16, 2, 8, batch=(2,), page_size=8)
    return attention.reserve_pages(cache, np.array([8, 8]))


@functools.cache
def _params():
    return LAYER.init(_key(), jnp.float32)


@functools.cache
def _key():
    return jax.random.key(0)


@pytest.mark.parametrize("name", EAGER)
def test_attention_and_layers_called_eagerly_are_one_program(compilations, name):
    x = jax.device_put(np.ones((1, 6, 2, 8), np.float32))
    _params(), _cache(), x[0, 0, :, 0], x[0, :, 0]
    for anew in (True, False):
        if anew:
            jax.clear_caches()
        compilations.clear()
        jax.block_until_ready(EAGER[name](x))
        own = [f for f in compilations if f not in ("jit(dynamic_slice)", "jit(squeeze)")]
        assert len(own) == anew, compilations


def test_dot_product_attention_finds_its_blocks_in_one_program(compilations):
    """Where arrays say which there are, too."""
    x, lengths = jax.device_put(arrays(16)[0]), jax.device_put(np.array([5], np.int32))
    for _ in range(2):
        attention.dot_product_attention(x, x, x, key_value_seq_lengths=lengths, block_size=4)
    assert len(compilations) == 1, compilations


@pytest.mark.parametrize("heads", [(4, 1), (8, 2)])
def test_dot_product_attention_of_many_rows_takes_few_key_heads(heads):
    """As many query heads share one that their scores do not stay in cache."""
    query, key = (jax.ShapeDtypeStruct((2, 1024, n, H), jnp.float32) for n in heads)
    out = jax.eval_shape(attention.dot_product_attention, query, key, key)
    assert out.shape == query.shape


def test_dot_product_attention_called_eagerly_again_compiles_nothing(compilations):
    """Nor with functions and masks that were made anew, around other arrays."""
    x = jax.device_put(arrays(16)[0])
    for slope in jax.device_put([np.float32(1), np.float32(2)]):
        before = len(compilations)
        attention.dot_product_attention(
            x,
            x,
            x,
            mask=attention.from_function(lambda b, h, q, k: q != k),
            score_fn=lambda s, b, h, q, k, slope=slope: jax.nn.relu(s) * slope,
        )
    assert len(compilations) == before


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_dot_product_attention_has_each_product_once(monkeypatch, size, is_causal):
    """q·k and w·v; in the gradient also one for each of q, k and v, and g·v; by blocks also q·k
    again and o·g.
    """
    monkeypatch.setattr(_blockwise, "grid_of_values", grid_of)
    length, block_size = SIZES[size]
    loops, counts = [], (2, 6, 16) if size == "one block" else (2, 8, 26)
    for function, products in zip(orders(block_size, is_causal=is_causal), counts, strict=True):
        text = jax.jit(function).lower(*arrays(length)).as_text()
        assert text.count("stablehlo.dot_general") == products
        # No branch, which would hold a body in two forms.
        assert not text.count("stablehlo.case")
        assert not text.count("stablehlo.if")
        loops.append(text.count("stablehlo.while"))
    # Over rows and keys, as the heads of so few scores go together.
    assert loops == ([0, 0, 0] if size == "one block" else [2, 4, 6])


@pytest.mark.parametrize("size", SIZES)
def test_dot_product_attention_traces_its_body_once_an_order(monkeypatch, size):
    traced = []
    for module in (_blockwise, _tangent, _at_once):

        def counted(block, original=module.scores):
            traced.append(block)
            return original(block)

        monkeypatch.setattr(module, "scores", counted)
    length, block_size = SIZES[size]
    for order, function in enumerate(orders(block_size, is_causal=True)):
        jax.clear_caches()
        traced.clear()
        jax.jit(function).lower(*arrays(length))
        # That of values and that of tangents, whose program transposes and tangents of it reuse.
        assert len(traced) == min(order + 1, 2)


def test_dot_product_attention_has_no_loop_over_keys_where_nothing_is_masked():
    x = jax.ShapeDtypeStruct((1, 4096, 8, H), jnp.float32)
    loops = {
        is_causal: jax.jit(orders(None, is_causal=is_causal)[0])
        .lower(x, x, x)
        .as_text()
        .count("stablehlo.while")
        for is_causal in (False, True)
    }
    assert loops == {False: 2, True: 3}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_dot_product_attention_row_that_reads_what_is_not_finite_is_nan(size, bad):
    """Of the value of one channel, whatever a function makes of the scores."""
    length, block_size = SIZES[size]
    q, k, v = arrays(length)
    broken = v.copy()
    broken[0, length // 2, 1, 2] = bad
    for score_fn in (None, lambda s, b, h, q, k: jnp.zeros_like(s)):
        attend = orders(block_size, is_causal=True, score_fn=score_fn)[0]
        out = np.asarray(attend(q, k, broken))
        assert np.isnan(out[:, length // 2 :, 1]).all()
        np.testing.assert_array_equal(out[:, :, 0], attend(q, k, v)[:, :, 0])
        first = slice(None), slice(length // 2)
        np.testing.assert_array_equal(out[first], attend(q, k, v)[first])


SHARDED = """
import itertools, re
import jax, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from equipoise import attention

cases = itertools.product(
    (AxisType.Explicit, AxisType.Auto),
    (P(("b", "h")), P(None, None, ("b", "h")), P("b", None, "h")),
    # Of several blocks; and of a length at which one device takes heads one by one.
    ((64, {"is_causal": True, "block_size": 16}), (512, {})),
)
for kind, spec, (length, options) in cases:
    mesh = jax.make_mesh((2, 4), ("b", "h"), axis_types=(kind,) * 2)
    x = jax.ShapeDtypeStruct((8, length, 8, 4), jnp.float32, sharding=NamedSharding(mesh, spec))
    attend = lambda q, k, v: attention.dot_product_attention(q, k, v, **options)
    gradient = jax.grad(lambda *a: jnp.sum(a[3] * attend(*a[:3])), (0, 1, 2))
    programs = (jax.jit(attend).lower(x, x, x), jax.jit(gradient).lower(x, x, x, x))
    for order, program in enumerate(programs):
        text = program.compile().as_text()
        found = re.findall(r"all-reduce|all-gather|all-to-all|collective-permute", text)
        print(kind, spec, length, order, found)
        assert "while" in text or length == 512
        assert not found
"""


BY_SEQUENCE = """
import itertools, math, re
import jax, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from equipoise import attention

SENDS = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"

def sent(function, *arrays):
    text = jax.jit(function).lower(*arrays).compile().as_text()
    found = re.findall(rf"= (.*?) (?:{SENDS})(?:-start)?\\(", text)
    shapes = [list(map(eval, re.findall(r"\\[[\\d,]+\\]", types))) for types in found]
    return len(found), sum(math.prod(shape) for types in shapes for shape in types)

automatic, explicit = (
    jax.make_mesh((8,), ("s",), axis_types=(kind,)) for kind in (AxisType.Auto, AxisType.Explicit)
)
# One block; several, of which masks skip none where types say that the sequence is divided; and
# several of heads that the devices cannot share, of which they skip none either.
for shape, masks, mesh in (
    ((8, 64, 8, 8), 2, automatic),
    ((2, 1024, 8, 8), 1, automatic),
    ((2, 1024, 8, 8), 2, explicit),
    ((1, 1024, 4, 8), 2, automatic),
):
    for is_causal in (False, True)[:masks]:
        orders = []
        for attend, there in (
            (jax.nn.dot_product_attention, automatic),
            (attention.dot_product_attention, mesh),
        ):
            place = NamedSharding(there, P(None, "s"))
            x = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place)
            value = lambda q, k, v: attend(q, k, v, is_causal=is_causal)
            gradient = jax.grad(lambda *a: jnp.sum(a[3] * value(*a[:3])), (0, 1, 2))
            orders.append((sent(value, x, x, x), sent(gradient, x, x, x, x)))
        print(shape, is_causal, orders)
        for peer, ours in zip(*orders):
            assert ours[0] <= peer[0] and ours[1] <= peer[1]
# Where they may skip, rows are read in turn: each array is sent once, none of them in a loop.
place = NamedSharding(automatic, P(None, "s"))
x = jax.ShapeDtypeStruct((2, 1024, 8, 8), jnp.float32, sharding=place)
value = lambda q, k, v: attention.dot_product_attention(q, k, v, is_causal=True)
gradient = jax.grad(lambda *a: jnp.sum(a[3] * value(*a[:3])), (0, 1, 2))
for order, arrays, number in ((value, 3, 3), (gradient, 4, 5)):
    text = jax.jit(order).lower(*(x,) * arrays).compile().as_text()
    found = [line for line in text.splitlines() if re.search(rf" (?:{SENDS})(?:-start)?\\(", line)]
    assert len(found) == number and not any("while" in line for line in found), found
# All rows at once are the same numbers.
arrays = jax.random.normal(jax.random.key(0), (3, 2, 1024, 8, 8))
split = [jax.device_put(a, NamedSharding(explicit, P(None, "s"))) for a in arrays]
peer = lambda *a: jax.nn.dot_product_attention(*a, is_causal=True)
for mine, wanted, places in ((value, peer, split), (gradient, None, (*split, split[0]))):
    found = jax.jit(mine)(*places)
    if wanted is None:
        wanted = jax.grad(lambda *a: jnp.sum(a[3] * peer(*a[:3])), (0, 1, 2))
        arrays = (*arrays, arrays[0])
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(jax.jit(wanted)(*arrays))):
        # Sums of a thousand terms of order one in float32.
        assert jnp.abs(jnp.asarray(jax.device_get(a)) - b).max() < 1e-4
"""


@pytest.mark.slow
def test_dot_product_attention_sharded_by_sequence_communicates_no_more_than_jax_nn():
    _on_eight_devices(BY_SEQUENCE)


@pytest.mark.slow
def test_dot_product_attention_sharded_by_batch_or_heads_communicates_nothing():
    _on_eight_devices(SHARDED)


def _on_eight_devices(program):
    script = "import os\nos.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=8'\n"
    done = subprocess.run(
        [sys.executable, "-c", script + program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
