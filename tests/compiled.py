"""Functions, each call compiled as one program: quicker than one program an operation."""

import functools

import jax


def compiled(function):
    """The function, whose arrays are constants of the program; what it raises is the same."""

    @functools.wraps(function)
    def call(*args, **options):
        return jax.jit(lambda: function(*args, **options))()

    return call
