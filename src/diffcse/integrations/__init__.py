"""The method in the shapes of other libraries.

sentence_transformers.py   the method as a loss for sentence-transformers' own trainer
evaluators.py              STS sets as a sentence-transformers evaluator
"""
