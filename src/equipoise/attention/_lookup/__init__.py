"""Which query reads a wanted mixture of keys, and how wrong it can be."""
