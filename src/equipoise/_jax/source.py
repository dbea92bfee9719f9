"""Where the equations of a program were written: files, functions, lines and named scopes."""

import functools
import os
import re
import sysconfig
from typing import NamedTuple

import jax

from equipoise._jax.programs import Equation, Program, opened
from equipoise._types import PyTree

_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_JAX = os.path.dirname(os.path.abspath(jax.__file__)) + os.sep
_INSTALLED = ("site-packages", "dist-packages")
_STANDARD = sysconfig.get_paths()["stdlib"]
# What transformations write around a name: jvp(block), transpose(jvp(block)), vmap(block).
_TRANSFORMED = re.compile(r"^\w+\((.*)\)$")


class Frame(NamedTuple):
    """A line of code that ran while the program was traced."""

    file: str
    function: str
    line: int


def frames(equation: Equation) -> tuple[Frame, ...]:
    """The lines that led to the equation, innermost first, those of JAX and of ours left out.

    Of a derivative, the lines are those of what it differentiates.
    """
    traceback: PyTree = equation.source_info.traceback
    return () if traceback is None else _frames(traceback)


@functools.lru_cache(maxsize=2**14)
def _frames(traceback: PyTree) -> tuple[Frame, ...]:
    return tuple(
        Frame(frame.file_name, frame.function_name, frame.line_num)
        for frame in traceback.frames
        if not frame.file_name.startswith((_JAX, _OWN, "<frozen"))
    )


@functools.cache
def is_library(file: str) -> bool:
    """Whether a file is installed: of JAX, of ours, of another package or of Python."""
    inside = any(part in _INSTALLED for part in file.replace(os.sep, "/").split("/"))
    return inside or file.startswith((_JAX, _OWN, _STANDARD, "<frozen"))


def written_in_library(program: Program) -> bool:
    """Whether the function that the program was traced from is a library's.

    JAX traces such a function once for all its callers, so that its equations name the first one.
    """
    file = getattr(opened(program).debug_info, "func_filename", None)
    return file is not None and is_library(file)


def scopes(equation: Equation) -> tuple[str, ...]:
    """The names given by ``jax.named_scope`` around the equation, outermost first."""
    return _names(str(equation.source_info.name_stack))


@functools.cache
def _names(stack: str) -> tuple[str, ...]:
    names = []
    for name in stack.split("/"):
        while (inside := _TRANSFORMED.match(name)) is not None:
            name = inside[1]
        names += [name] if name else []
    return tuple(names)
