"""Variational inference that measures itself."""

__all__: list[str] = []
