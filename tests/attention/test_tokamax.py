"""The tests of attention that tokamax ships, where it is installed; it needs Python 3.12."""

import subprocess
import sys

import pytest

from tests.attention.meshes.process import ROOT


@pytest.mark.slow
def test_dot_product_attention_passes_the_tests_of_tokamax():
    pytest.importorskip("tokamax", reason="tokamax is not installed")
    # In a process of its own: float32 by default, and its own warnings.
    command = [sys.executable, "-m", "tests.attention.tokamax_suite"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "OK" in done.stderr
