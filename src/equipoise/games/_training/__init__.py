"""The learning rate at which training leaves the point it has reached, without a matrix."""
