"""Embeddings -> scores. Every score starts from an `Encode`; nothing here knows a model.

embeddings.py   Encode, EmbeddingMatrix; each distinct sentence once; cosines
correlation.py  Pearson and Spearman, one vector or many at a time
sts.py          graded pairs -> StsScore
retrieval.py    queries and documents -> RetrievalScore
geometry.py     alignment, uniformity, effective rank, mean cosine
floors.py       encoders a trained one must beat
compare.py      two encoders on the same items -> Difference
"""
