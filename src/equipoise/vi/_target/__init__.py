"""The log density as a fit asks it: as data, at which points, and on which rows of its data."""
