"""Embeddings -> groups: near-duplicates, clusters with words, and a map of all texts."""
