"""Attention by blocks: what is computed, on which blocks, and its derivatives."""
