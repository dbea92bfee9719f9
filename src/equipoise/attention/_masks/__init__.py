"""Masks as values: which query may read which key, and the functions of users that say so."""
