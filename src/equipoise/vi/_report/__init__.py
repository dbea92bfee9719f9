"""What is said of a fit in the names of its example: error bars, and whether they hold."""
