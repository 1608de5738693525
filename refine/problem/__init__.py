"""Data meets model: what a solver may ask, in numbers."""
