"""DiffCSE inside other libraries' trainers. sentence_transformers.py: a loss for that library's own."""
