"""The fit that needs no tuning: where it starts, its two loops, its judge and its result."""
