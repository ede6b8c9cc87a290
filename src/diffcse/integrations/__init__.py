"""The method in the shapes of other libraries.

sentence_transformers.py   the method as a loss for sentence-transformers' own trainer
ray_data.py                the encoder as actors of Ray Data
evaluators.py              STS sets as a sentence-transformers evaluator
"""
