"""Functions that run once or a few times, for which compiling is what takes time."""

import functools
from collections.abc import Callable
from typing import TypeAlias

import jax

from equipoise._types import PyTree

_Function: TypeAlias = Callable[..., PyTree]

# Where compiled functions of known values run at once, also while another program is being traced.
outside_of_traces = jax.core.eval_context


def briefly(function: _Function, *, static_argnums: tuple[int, ...]) -> _Function:
    """The function compiled with little care: on CPUs that takes about two thirds of the time."""

    @functools.cache
    def compiled(backend: str) -> _Function:
        made: _Function = jax.jit(
            function,
            static_argnums=static_argnums,
            compiler_options={"xla_backend_optimization_level": 0} if backend == "cpu" else None,
        )
        return made

    return lambda *args: compiled(jax.default_backend())(*args)
