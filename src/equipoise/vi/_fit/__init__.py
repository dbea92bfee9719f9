"""The fit that needs no tuning: what it is asked for, its judge and its result."""
