"""Between vi and other libraries: models from NumPyro, draws for ArviZ; both import at use."""
