"""Gradient play, and the exact step size where it stops converging."""

__all__: list[str] = []
