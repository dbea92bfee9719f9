"""Importance weights: how far an approximation is from its target, and better draws."""
