"""Trajectories of play, one or many at once, and the verdict on each."""
