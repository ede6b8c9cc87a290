"""The same numbers, computed faster."""
