"""Functions × kinds of axes × what is divided × orders of derivative, each kind in a process."""

import pytest

from tests.attention.meshes import matrix
from tests.attention.meshes.process import finished
from tests.thinned import slow_but

# By default one of attention, of its primitives, of statistics, of caches and of layers.
QUICK = ("dot_product_attention", "half", "attention_statistics", "decode_step_in_pages")
FUNCTIONS = {function.__name__: function for function in matrix.FUNCTIONS}


@pytest.mark.parametrize("name", slow_but(FUNCTIONS, *QUICK, "multi_head_attention"))
def test_attention_takes_explicit_axes(name):
    """What they want of types, which is the same on one device."""
    matrix.check(FUNCTIONS[name], "Explicit", "both", shape=(1, 1))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Explicit", "Auto", "Manual"])
def test_attention_on_a_mesh_equals_one_device(kind):
    finished("tests.attention.meshes.matrix", kind)
