"""Matplotlib figures of the areas' results; imported only when asked for."""

__all__: list[str] = []
