"""Matplotlib figures of the areas' results; imported only when asked for."""

from equipoise.plot._attention import attention_costs, attention_rows, attention_weights

__all__ = ["attention_costs", "attention_rows", "attention_weights"]
