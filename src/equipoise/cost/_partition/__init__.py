"""What one device of a mesh computes where the program says only how arrays are divided."""
