"""Bounds of the evidence, their terms and their gradients, with standard errors."""
