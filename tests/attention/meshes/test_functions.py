"""Functions of scores on arrays of a mesh, whatever they are made of; and look-ups there."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from equipoise import attention
from tests.thinned import slow_but

_rng = np.random.default_rng(0)
QUERY, TABLE = jnp.asarray(_rng.normal(size=(2, 12, 3, 4))), jnp.asarray(_rng.normal(size=3))


@jax.custom_jvp
def forward_rule(x, y):
    return jnp.sin(x) * y


forward_rule.defjvp(
    lambda at, along: (
        forward_rule(*at),
        jnp.cos(at[0]) * at[1] * along[0] + jnp.sin(at[0]) * along[1],
    )
)


@jax.custom_vjp
def backward_rule(x, y):
    return jnp.sin(x) * y


backward_rule.defvjp(
    lambda x, y: (backward_rule(x, y), (x, y)),
    lambda kept, given: (jnp.cos(kept[0]) * kept[1] * given, jnp.sin(kept[0]) * given),
)

SCORES = {
    "rule of jax": lambda s, h, i, j, table: s * jax.nn.softplus(table[h]),
    "forward rule": lambda s, h, i, j, table: forward_rule(s, table[h]),
    "backward rule": lambda s, h, i, j, table: backward_rule(s, table[h]),
    "branch": lambda s, h, i, j, table: jax.lax.cond(
        i > j, lambda s: s * table[h], lambda s: jax.nn.relu(s), s
    ),
    "scan": lambda s, h, i, j, table: jax.lax.scan(
        lambda c, x: (c + x * jnp.sin(c), None), s, table
    )[0],
    "loop": lambda s, h, i, j, table: jax.lax.fori_loop(
        0, i - j + 1, lambda n, c: c + n.astype(c.dtype), s
    ),
    "checkpoint": lambda s, h, i, j, table: jax.checkpoint(lambda s: jnp.sin(s) * table[h])(s),
}


def slopes(query, table):
    """By the query and by what functions captured; and a tangent of that for two of them."""

    def total(name, query, table):
        def score(s, b, h, i, j):
            return SCORES[name](s, h, i, j, table)

        if name == "loop":  # its length is a value: it has no reverse mode
            table, query = jax.lax.stop_gradient((table, query))
        y = attention.dot_product_attention(query, query, query, score_fn=score, block_size=8)
        return jnp.sum(jnp.sin(y))

    found = {}
    for name in SCORES:
        slope = jax.grad(lambda *x, name=name: total(name, *x), (0, 1))
        found[name] = slope(query, table)
        if name in ("rule of jax", "scan"):
            found[name] = jax.jvp(slope, (query, table), (query, table))
    return found


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((1,), ("d",), axis_types=(AxisType.Explicit,))


@pytest.mark.parametrize("kind", slow_but(("explicit", "manual"), "manual"))
def test_attention_on_a_mesh_takes_functions_of_every_kind(mesh, kind):
    run = slopes
    if kind == "manual":

        def run(query, table):
            # Cotangents of what devices share are summed over them by its transpose.
            return jax.shard_map(
                slopes,
                mesh=mesh,
                in_specs=(P("d"), P()),
                out_specs={
                    name: jax.tree.map(lambda x: P(*("d",) * (x.ndim == 4)), shape)
                    for name, shape in jax.eval_shape(slopes, QUERY, TABLE).items()
                },
            )(query, table)

    query = jax.device_put(QUERY, NamedSharding(mesh, P("d")))
    table = jax.device_put(TABLE, NamedSharding(mesh, P()))
    found = jax.jit(run)(query, table)
    # Sums of a few hundred terms of order one.
    chex.assert_trees_all_close(found, jax.jit(slopes)(QUERY, TABLE), rtol=0, atol=2**-40)


@pytest.mark.parametrize("spec", [pytest.param(P("d"), marks=pytest.mark.slow), P(None, "d")])
def test_lookups_take_divided_keys(mesh, spec):
    keys, weights = jnp.asarray(_rng.normal(size=(5, 6))), jnp.array([0, 0.7, 0, 0.3, 0])
    noise = jnp.full((5, 6, 1), 0.1)

    def found(keys, weights, noise):
        return (
            attention.lookup_query(keys, weights, sharpness=3.0),
            jax.value_and_grad(attention.lookup_margin)(keys, weights),
            attention.lookup_error_bound(weights, keys, margin=2.0),
            attention.lookup_sharpness(weights, leaked_weight=0.01),
            attention.noisy_lookup(keys, keys, jax.random.key(0), noise=noise, num_samples=4),
        )

    def put(x, spec):
        return jax.device_put(x, NamedSharding(mesh, spec))

    divided = put(keys, spec), put(weights, P(spec[0])), put(noise, spec)
    wanted = jax.jit(found)(keys, weights, noise)
    chex.assert_trees_all_close(jax.jit(found)(*divided), wanted, rtol=1e-12, atol=1e-14)
