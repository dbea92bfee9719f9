"""Optimizers of optax as update rules: what in their state moves with the players, what is slow."""
