"""Policies that are trained here: their demonstrations, their training, and how they are tried."""
