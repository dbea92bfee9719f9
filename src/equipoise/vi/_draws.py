"""Standard normal variates from which draws are made."""

from typing import Any

import jax

from equipoise._types import Array, PRNGKeyArray


def independent(key: PRNGKeyArray, num_samples: int, size: int, dtype: Any) -> Array:
    """Independent standard normal variates, the same numbers whatever the dtype."""
    return jax.random.normal(key, (num_samples, size), "float32").astype(dtype)
