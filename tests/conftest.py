"""A strict environment: float64 on, no silent promotion, warnings are errors, seeds printed."""

import importlib.metadata
import os
import zlib

# One device by default; tests that need eight start their own process.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
# Every core has a worker of its own: threads of its libraries would only wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Nearly all of the suite's time is compilation, of programs that run once on small arrays. The
# older emitters compile thrice as fast; later versions of jaxlib no longer have them, and abort
# where they meet an unknown flag.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_parallel_codegen_split_count=1 --xla_cpu_multi_thread_eigen=false"
    + " --xla_cpu_use_fusion_emitters=false"
    * importlib.metadata.version("jaxlib").startswith(("0.9.", "0.10.")),
)

import hypothesis
import jax
import numpy as np
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# The first example of a property compiles, so a deadline on single examples means nothing.
hypothesis.settings.register_profile(
    "default", deadline=None, max_examples=20, derandomize=True, database=None
)
hypothesis.settings.register_profile(
    "thorough", parent=hypothesis.settings.get_profile("default"), max_examples=200
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture
def seed(request):
    """A number that depends on the test's name alone; printed when the test fails."""
    value = zlib.crc32(request.node.nodeid.encode()) % 2**31
    print(f"seed {value}")
    return value


@pytest.fixture
def key(seed):
    return jax.random.key(seed)


@pytest.fixture
def rng(seed):
    return np.random.default_rng(seed)
