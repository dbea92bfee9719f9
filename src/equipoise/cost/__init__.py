"""Symbolic work, depth and memory of any JAX function."""

from equipoise.cost._dependencies import Dependencies, dependencies

__all__: list[str] = ["Dependencies", "dependencies"]
