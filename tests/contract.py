"""What an area states of its public names so that ``test_contract.py`` can hold them."""

import dataclasses
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Case:
    """A public name applied to arrays.

    ``fn`` is a pure function of the arrays in ``args``, or of what ``args()`` makes when the test
    runs, so that collecting the tests computes nothing (static options closed over). ``vmap`` and
    ``grad`` are switched off only with a reason in ``why``. ``rtol`` is for jit against eager and
    vmap against a loop, where sums are reordered: a few rounding errors of the dtype.
    """

    fn: Callable[..., Any]
    args: tuple[Any, ...] | Callable[[], tuple[Any, ...]]
    vmap: bool = True
    grad: bool = True
    why: str = ""
    rtol: float = 1e-12
    rtol_float32: float = 1e-4

    def arrays(self) -> tuple[Any, ...]:
        return self.args() if callable(self.args) else self.args


@dataclasses.dataclass(frozen=True)
class Pytree:
    """A public result type: ``make()`` is an instance that must survive flattening, and print."""

    make: Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Static:
    """A public name that is no function of arrays; says why. Its own tests hold it."""

    why: str
