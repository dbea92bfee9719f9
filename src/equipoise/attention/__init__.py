"""Exact softmax attention in linear memory, differentiable to any order."""

__all__: list[str] = []
