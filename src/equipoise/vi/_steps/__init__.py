"""How the parameters of q move: natural-gradient steps, and those of an optimizer."""
