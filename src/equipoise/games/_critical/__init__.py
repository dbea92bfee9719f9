"""The step size at which an equilibrium is lost, from the spectrum and from play."""
