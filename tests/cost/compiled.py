"""What XLA says of the models, each compiled once: bytes, and operations before optimization."""

import functools

import jax

from equipoise import cost
from tests.cost import models, networks, programs, uses

MODELS = models.MODELS | networks.NETWORKS | uses.USES
CASES = {name: case for name, *case in models.cases(MODELS)}
# What XLA on the CPU undoes checkpoints by.
_UNDOING = "cse_barrier_expander,cse,optimization-barrier-expander"


def lowered(name, batch):
    fn, args, donate, _ = CASES[name]
    return jax.jit(fn, donate_argnums=donate).lower(*programs.with_sizes(args, {"b": batch}))


@functools.cache
@models.usual()
def analyzed(name):
    fn, args, donate, _ = CASES[name]
    return cost.analyze(fn, *args, donate=donate)


@functools.cache
@models.usual()
def taken(name, batch, *, checkpoints=False):
    """The bytes of arguments, results and temporaries that XLA sets aside; or with checkpoints."""
    options = {"xla_disable_hlo_passes": _UNDOING} if checkpoints else {}
    memory = lowered(name, batch).compile(compiler_options=options).memory_analysis()
    kept = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return kept - memory.alias_size_in_bytes + memory.temp_size_in_bytes


@models.usual()
def operations(name):
    """XLA's count, transcendental functions included; the body of a loop once."""
    found = lowered(name, CASES[name][-1]).cost_analysis()
    return found["flops"] + found.get("transcendentals", 0)
