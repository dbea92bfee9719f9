"""Families: the approximations q, their draws and their densities."""
