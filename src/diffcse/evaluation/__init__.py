"""Embeddings -> scores. Every score starts from an `Encode`; only `suite` and `floors` know what a model is.

embeddings.py   Encode, EmbeddingMatrix; each distinct sentence once; cosines
correlation.py  Pearson and Spearman, one vector or many at a time
lines.py        text files as lines, or an error that says where
sts.py          graded pairs -> StsScore; counts, splits and text variants of the known sets
downstream.py   SentEval's folder layout: STS and transfer tasks
beir.py         BEIR's folder layout; the DiffCSE paper's search on STS-B
data.py         folders -> everything there is to measure on
retrieval.py    queries and documents -> RetrievalScore, CollectionScore
geometry.py     alignment, uniformity, effective rank, mean cosine, spectrum
probes.py       SentEval's two linear classifiers
transfer.py     a probe on frozen embeddings -> TransferScore
floors.py       encoders a trained one must beat: TF-IDF, SIF
stored.py       embeddings from .npy and .parquet
cache.py        results kept by what they follow from
suite.py        encoders x sets -> one report, as evaluation.schema.json describes it
compare.py      two encoders on the same items -> Difference
seeds.py        methods x seeds -> effects with intervals
"""
