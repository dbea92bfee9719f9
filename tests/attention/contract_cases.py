import jax.numpy as jnp
import numpy as np

from equipoise import attention
from tests.attention import contract_cases_around
from tests.contract import Case, Static

_rng = np.random.default_rng(0)
_QUERY, _KEY, _VALUE = (jnp.asarray(_rng.normal(size=(5, 2, 3))) for _ in range(3))
_MASK_VALUE = (
    "A mask value, not a function of float arrays; tests/attention/masks/test_masks.py holds it."
)
_MASKS = (
    *("Mask", "causal", "sliding_window", "chunked", "segments"),
    *("document", "prefix", "tree", "from_function"),
)

CASES: dict = {
    "dot_product_attention": Case(attention.dot_product_attention, (_QUERY, _KEY, _VALUE)),
    "flax_attention_fn": Case(attention.flax_attention_fn, (_QUERY, _KEY, _VALUE)),
    "reference_attention": Case(attention.reference_attention, (_QUERY, _KEY, _VALUE)),
    **dict.fromkeys(_MASKS, Static(_MASK_VALUE)),
}
CASES |= contract_cases_around.CASES
