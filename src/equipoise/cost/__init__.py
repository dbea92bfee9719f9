"""Symbolic work, depth and memory of any JAX function."""

__all__: list[str] = []
