"""A function and the shapes of its arguments as a program with named sizes."""
