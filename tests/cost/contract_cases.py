import jax.numpy as jnp

from equipoise import cost
from tests.contract import Case, Pytree, Static  # noqa: F401

PROGRAM = "takes a program, not arrays; tests/cost holds it on many programs and sizes"
SYMBOLIC = "takes symbolic expressions, no arrays; held by tests/cost/expression/test_expression.py"

SMALL = cost.analyze(lambda w, x: x @ w, "f32[d,d]", "f32[n,d]")

N = cost.Expression("n")

CASES: dict = {
    "analyze": Static(PROGRAM),
    "Cost": Pytree(lambda: SMALL),
    "Breakdown": Pytree(lambda: SMALL.by("line")),
    "Communication": Pytree(lambda: cost.Communication("all-reduce", ("x",), N, N)),
    "fits": Static("takes costs, not arrays; held by tests/cost/test_fits.py"),
    "Fits": Pytree(lambda: cost.fits(SMALL, "1 GB", n=2, d=3)),
    "best_checkpoint": Static("takes a program; held by tests/cost/test_checkpoint.py"),
    "Checkpoints": Pytree(
        lambda: cost.best_checkpoint(lambda x: x @ x, "f32[n,n]", at_most="1 MB", n=3)
    ),
    "roofline": Static("takes costs, not arrays; held by tests/cost/test_roofline.py"),
    "Roofline": Pytree(lambda: cost.roofline(SMALL, "H100", n=2, d=3)),
    "Bounds": Pytree(lambda: cost.roofline(SMALL, "H100", n=2, d=3).by("line")),
    "Device": Pytree(lambda: cost.roofline(SMALL, "H100", n=2, d=3).device),
    "measure_device": Static("measures the machine; held by tests/cost/test_roofline.py"),
    "analyze_training": Static(PROGRAM),
    "TrainingCost": Pytree(
        lambda: cost.analyze_training(lambda w, x: x @ w, "f32[d,d]", "f32[n,d]")
    ),
    "dependencies": Static("runs a program on abstract arrays; tests/cost/test_dependencies.py"),
    "Dependencies": Pytree(lambda: cost.dependencies(jnp.cumsum, jnp.ones(3))),
    "path_length": Static("runs a program on abstract arrays; tests/cost/test_paths.py"),
    "Expression": Static(SYMBOLIC),
    "compare": Static("takes costs, not arrays; held by tests/cost/test_compare.py"),
    "Comparison": Pytree(lambda: cost.compare({"dense": SMALL})),
    "crossover": Static("takes symbolic expressions; held by tests/cost/test_crossover.py"),
    "Larger": Static("the words of Crossover.larger; held by tests/cost/test_crossover.py"),
    "Pattern": Static("the words of Dependencies.kind; held by tests/cost/test_dependencies.py"),
    "Crossover": Pytree(lambda: cost.crossover(SMALL.flops, 6, "n", d=1)),
}
