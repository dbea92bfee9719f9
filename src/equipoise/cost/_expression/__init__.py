"""Exact expressions in named sizes: what they are, their order, and how they are written."""
