"""Scores of two sets of features, and of a network by its likelihood, one file each. NumPy only."""
