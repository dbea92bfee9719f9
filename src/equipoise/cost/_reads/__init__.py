"""Which elements a program reads: one run over it on abstract arrays."""
