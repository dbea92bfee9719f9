"""The adapters to JAX below its documented surface: what they say of programs is so.

The parts of a program, run by hand as they are laid out, give what the program gives.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from equipoise._jax import programs
from equipoise._jax.evaluation import bind, implementation, run
from equipoise._jax.meshes.shards import num_devices
from equipoise._jax.primitives import is_linear, is_zero, primitive
from equipoise._jax.programs import SCAN, SHARD_MAP, SOLVE, WHILE, opened
from equipoise._jax.tracing.work import work
from equipoise._jax.zeros import is_zero as is_symbolic_zero


def by_hand(equation, xs):
    """The results of an equation by its parts, as the reader of programs lays them out."""
    name = equation.primitive.name
    if name == SCAN:
        return scanned(programs.scan(equation), xs)
    if name == WHILE:
        return looped(programs.while_loop(equation), xs)
    if name == programs.COND:
        chosen = programs.branches(equation)[int(xs[0])]
        return run(chosen, xs[1:], by_hand)
    if name == SOLVE:
        solver, operands = programs.linear_solve(equation)
        return run(solver, [xs[i] for i in operands], by_hand)
    body = None if name == SHARD_MAP else programs.called(equation)
    return bind(equation, xs) if body is None else run(body, xs, by_hand)


def scanned(layout, xs):
    first, carried = layout.num_constants, layout.num_carried
    constants, carry, arrays = xs[:first], xs[first : first + carried], xs[first + carried :]
    rows = [[] for _ in range(layout.length)]
    for t in range(layout.length)[:: -1 if layout.reverse else 1]:
        results = run(layout.body, [*constants, *carry, *(x[t] for x in arrays)], by_hand)
        carry, rows[t] = results[:carried], results[carried:]
    return [*carry, *(jnp.stack(column) for column in zip(*rows, strict=True))]


def looped(layout, xs):
    of_test, rest = xs[: layout.num_test_constants], xs[layout.num_test_constants :]
    of_body, carry = rest[: layout.num_body_constants], rest[layout.num_body_constants :]
    while run(layout.test, [*of_test, *carry], by_hand)[0]:
        carry = run(layout.body, [*of_body, *carry], by_hand)
    return carry


X = np.linspace(0.5, 1.5, 4).reshape(2, 2)
MATRIX = np.array([[2.0, 1.0], [0.5, 3.0]])


def scan(x, *, reverse=False):
    """With constants, two carries of different rank, and what is scanned and built."""

    def body(carry, row):
        total, count = carry
        total = jnp.tanh(x @ total + row)
        return (total, count + row.sum()), (total * count, row[0])

    return lax.scan(body, (x[0], jnp.sum(x)), jnp.stack([x, 2 * x, -x])[:, 0], reverse=reverse)


def while_loop(x):
    """With one constant of the test and two of the body."""
    bound, step, factor = jnp.sum(x), x[0, 0], x[1, 1]
    return lax.while_loop(
        lambda carry: carry[0] < bound, lambda carry: (carry[0] + step, carry[1] * factor), (0.0, x)
    )


def branch(x):
    return lax.switch(jnp.int32(x[0, 0] > 0) + 1, [jnp.sin, jnp.cos, lambda y: y @ y], x)


def solve(x):
    """With a matrix that ``matvec`` and the solver read each as a constant of its own."""
    matrix = x + MATRIX

    def solver(_, b):
        return jnp.linalg.inv(matrix) @ b

    return lax.custom_linear_solve(lambda v: matrix @ v, x[0], solver, solver)


@jax.custom_jvp
def bent(x):
    return jnp.sin(x) * 2


@bent.defjvp
def _(primals, tangents):
    return bent(*primals), 7 * tangents[0]


@jax.custom_vjp
def kinked(x):
    return jnp.exp(x)


kinked.defvjp(lambda x: (kinked(x), None), lambda _, g: (3 * g,))

CALLS = {
    "jit": jax.jit(lambda x: jnp.tanh(x) + X),
    "checkpoint": jax.checkpoint(lambda x: jnp.sin(jnp.sin(x))),
    "custom_jvp": bent,
    "custom_vjp": kinked,
}
PROGRAMS = {
    "scan": scan,
    "reversed scan": lambda x: scan(x, reverse=True),
    "scan of nothing carried": lambda x: lax.map(jnp.sin, x),
    "while": while_loop,
    "cond": branch,
    "linear solve": solve,
    "gradient of a scan": jax.grad(lambda x: jnp.sum(scan(x)[1][0])),
    "forward derivative of a solve": lambda x: jax.jvp(solve, (x,), (x,))[1],
    **CALLS,
    "nested": lambda x: scan(bent(branch(x)))[1],
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_parts_of_a_program_give_what_the_program_gives(name):
    fn = PROGRAMS[name]
    found = run(jax.make_jaxpr(fn)(X), [jnp.asarray(X)], by_hand)
    # The same operations, but for the reassociation that a compiler may do: a few roundings.
    for value, expected in zip(found, jax.tree.leaves(fn(X)), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-13)


@pytest.mark.parametrize("name", CALLS)
def test_called_finds_the_program_of_a_call(name):
    (equation,) = jax.make_jaxpr(CALLS[name])(X).eqns
    body = programs.called(equation)
    assert body is not None
    assert [program for program in programs.held(equation)] == [body]


def test_called_tells_what_is_no_call():
    def combine(x, y):
        return x * y + 1

    def combined(x):
        return lax.reduce(x, 1.0, combine, (0, 1))

    for fn in (scan, while_loop, branch, solve, combined, jnp.sin):
        *_, equation = [e for e in jax.make_jaxpr(fn)(X).eqns if e.primitive.name != "copy"]
        assert programs.called(equation) is None


def test_called_and_num_devices_read_a_shard_map():
    mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("i")
    fn = jax.shard_map(jnp.sin, mesh=mesh, in_specs=spec, out_specs=spec)
    (equation,) = jax.make_jaxpr(fn)(X).eqns
    assert equation.primitive.name == SHARD_MAP
    assert num_devices(equation) == 1
    assert [e.primitive.name for e in opened(programs.called(equation)).eqns] == ["sin"]


def test_primitive_names_reach_into_what_is_held():
    names = set(programs.primitive_names(jax.make_jaxpr(PROGRAMS["nested"])(X)))
    assert {"scan", "cond", "custom_jvp_call", "tanh", "cos", "dot_general"} <= names
    assert "exp" not in names


def test_bind_changes_operands_and_parameters():
    (equation,) = jax.make_jaxpr(lambda x: lax.slice(x, (0, 0), (1, 2)))(X).eqns
    (found,) = bind(equation, [X], start_indices=(1, 0), limit_indices=(2, 2))
    np.testing.assert_array_equal(found, X[1:])


def test_implementation_opens_what_has_one_and_nothing_else():
    def evaluate(x):
        return [jnp.sin(x) + 1]

    made = primitive(
        "sine_and_one",
        evaluate=evaluate,
        shapes=lambda x: [x],
        jvp=lambda *_: None,
        transpose=lambda *_: None,
        batch=lambda *_: None,
    )
    (equation,) = jax.make_jaxpr(lambda x: made.bind(x)[0])(X).eqns
    inside = implementation(equation)
    assert list(programs.primitive_names(inside))[-2:] == ["sin", "add"]  # within a call
    (equation,) = jax.make_jaxpr(jnp.sin)(X).eqns
    assert implementation(equation) is None


def test_operands_say_what_they_are():
    (equation,) = jax.make_jaxpr(lambda x: x * 3.0)(X).eqns
    variable, number = equation.invars
    assert [programs.is_literal(v) for v in (variable, number)] == [False, True]
    assert number.val == 3
    assert [programs.rank(v) for v in (variable, number)] == [2, 0]
    assert programs.aval(variable).shape == X.shape
    assert programs.is_array(variable)


def test_primitive_has_the_rules_that_it_is_given():
    """The product of two arrays, with rules that say so."""

    def jvp(primals, tangents):
        (a, b), (ta, tb) = primals, tangents
        assert is_zero(tb)
        assert not is_zero(ta)
        return made.bind(a, b), made.bind(ta, b)

    def transpose(cotangents, a, b):
        (g,) = cotangents
        return [made.bind(g, b)[0], None] if is_linear(a) else [None, made.bind(a, g)[0]]

    def batch(operands, axes):
        moved = [
            x[None] if axis is None else jnp.moveaxis(x, axis, 0)
            for x, axis in zip(operands, axes, strict=True)
        ]
        return made.bind(*jnp.broadcast_arrays(*moved)), [0]

    made = primitive(
        "product",
        evaluate=lambda a, b: [a * b],
        shapes=lambda a, b: [a],
        jvp=jvp,
        transpose=transpose,
        batch=batch,
    )

    def product(a, b):
        return made.bind(a, b)[0]

    np.testing.assert_array_equal(jax.jit(product)(X, X), X * X)
    np.testing.assert_array_equal(jax.grad(lambda a: product(a, MATRIX).sum())(X), MATRIX)
    np.testing.assert_array_equal(jax.vmap(product, (0, None))(X, X[0]), X * X[0])


def test_is_zero_knows_the_tangent_of_what_stands_still():
    seen = []

    @jax.custom_jvp
    def product(a, b):
        return a * b

    def rule(primals, tangents):
        seen.append([is_symbolic_zero(t) for t in tangents])
        return product(*primals), tangents[0] * primals[1]

    product.defjvp(rule, symbolic_zeros=True)
    jax.jvp(lambda a: product(a, 2.0), (3.0,), (1.0,))
    assert seen == [[False, True]]


def test_work_counts_products_loops_branches_and_factorizations():
    a, b, square = jnp.ones((4, 5)), jnp.ones((5, 3)), jnp.eye(6)

    def of(fn, *args):
        return work(jax.make_jaxpr(fn)(*args))

    assert of(jnp.dot, a, b) == 4 * 5 * 3
    assert of(jnp.sin, a) == 20
    assert of(jnp.sum, a) == 20
    assert of(lambda x: lax.scan(lambda c, row: (c + row, None), x[0], x)[0], a) >= 4 * 5
    long, short = (
        of(lambda x, n=n: lax.fori_loop(0, n, lambda _, c: jnp.sin(c), x), a) for n in (9, 3)
    )
    assert long - short == 6 * (20 + 1)  # the counter takes one
    both = of(lambda i, x: lax.cond(i, jnp.sin, lambda x: jnp.sin(jnp.cos(x)), x), True, a)
    assert 40 <= both < 50
    assert of(lambda x: lax.linalg.cholesky(x), square) >= 6**3
    image, kernel = jnp.ones((1, 2, 8, 8)), jnp.ones((4, 2, 3, 3))
    assert of(lambda x, k: lax.conv(x, k, (1, 1), "VALID"), image, kernel) == 4 * 6 * 6 * 2 * 9
