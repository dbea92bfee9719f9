"""What devices share has the cotangents of all: the types in one process, the sums on 8 devices."""

import jax
import numpy as np
import pytest

from tests.attention.meshes import replicated
from tests.attention.meshes.process import finished
from tests.thinned import slow_but


@pytest.mark.parametrize("name", slow_but(replicated.FUNCTIONS, "alibi", "ragged", "half"))
def test_attention_in_shard_map_differentiates_what_devices_share(name):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    replicated.check(name, mesh, shared=False)


@pytest.mark.slow
def test_attention_sums_over_eight_devices_what_they_share():
    finished("tests.attention.meshes.replicated")
