"""Embeddings -> scores. Every score starts from an `Encode`; only `candidates` and `floors` know what a model is.

embeddings.py   Encode, EmbeddingMatrix; each distinct sentence once; cosines
correlation.py  Pearson and Spearman, for one vector or many at a time
lines.py        text files as lines, or an error with file and line
sts.py          graded pairs -> StsScore; counts, splits and text variants of the known sets
downstream.py   SentEval's folder layout: STS and transfer tasks
beir.py         BEIR's folder layout; the DiffCSE paper's search on STS-B
hub.py          known data sets of the Hugging Face hub
data.py         folders -> all sets to measure on
retrieval.py    queries and documents -> RetrievalScore, CollectionScore
geometry.py     alignment, uniformity, effective rank, mean cosine, spectrum
probes.py       SentEval's two linear classifiers
transfer.py     a probe on frozen embeddings -> TransferScore
own_texts.py    a user's labelled texts: neighbours, clusters, few-shot accuracy
own_pairs.py    a user's questions with answers, and graded pairs
own_report.py   encoders on these, beside word baselines, PCA and the start
label_free.py   first halves that search for their second halves: a score without labels
floors.py       encoders that a trained one must beat: TF-IDF, SIF
stored.py       embeddings from .npy and .parquet
candidates.py   the encoders to measure
jobs.py         the sets to measure, each as one job
measuring.py    one encoder x jobs -> scores
cache.py        results, kept under everything that they depend on
report.py       encoders x sets -> one report, as evaluation.schema.json describes it
compare.py      two encoders on the same items -> Difference
seeds.py        methods x seeds -> effects with intervals
"""
