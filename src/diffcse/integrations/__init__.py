"""Our parts in other libraries' shapes.

sentence_transformers.py   the method as a loss for sentence-transformers' own trainer
evaluators.py              STS sets as a sentence-transformers evaluator
"""
