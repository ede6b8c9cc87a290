"""Grids of runs -> cells -> one table."""
