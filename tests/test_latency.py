"""What the guide says of compilation: the next process finds programs that are kept on disk."""

import os
import subprocess
import sys

FIT = """
import collections
import jax
events = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: events.update([event]))
from equipoise import games
game = games.zero_sum(lambda p, q: p * q)
games.critical_step_size(game, games.extragradient(), (0.0, 0.0), max_step_size=3.0)
print(events["/jax/compilation_cache/cache_hits"], events["/jax/compilation_cache/cache_misses"])
"""


def hits_and_misses(folder):
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    command = [sys.executable, "-c", FIT]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return tuple(map(int, done.stdout.split()))


def test_programs_are_kept_between_processes(tmp_path):
    hits, misses = hits_and_misses(tmp_path)
    assert (hits, misses > 0) == (0, True)
    assert hits_and_misses(tmp_path) == (misses, 0)
