"""Functions × kinds of axes × what is divided × orders of derivative, each kind in a process."""

import pytest

from tests.attention.meshes.process import finished


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Explicit", "Auto", "Manual"])
def test_attention_on_a_mesh_equals_one_device(kind):
    finished("tests.attention.meshes.matrix", kind)
