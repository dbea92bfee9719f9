"""The sequence layers that the other areas are shown on."""

__all__: list[str] = []
