"""The DiffCSE toolkit: sentence embeddings from plain text without labels."""
