"""Functions × kinds of axes × what is divided × orders of derivative, each kind in a process."""

import pytest

from tests.attention.meshes import matrix
from tests.attention.meshes.process import finished


@pytest.mark.parametrize("function", matrix.FUNCTIONS)
def test_attention_takes_explicit_axes(function):
    """What they want of types, which is the same on one device."""
    matrix.check(function, "Explicit", "both", shape=(1, 1))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Explicit", "Auto", "Manual"])
def test_attention_on_a_mesh_equals_one_device(kind):
    finished("tests.attention.meshes.matrix", kind)
