"""Plain text -> a small language model."""
