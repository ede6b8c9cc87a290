"""Our parts in other libraries' shapes.

evaluators.py   STS sets as a sentence-transformers evaluator
"""
