"""One step of play as a map of the full state, and its spectrum at an equilibrium."""
