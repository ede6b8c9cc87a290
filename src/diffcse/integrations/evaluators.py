"""STS scores as a sentence-transformers evaluator, for that library's trainer to log and select by.

The library's own EmbeddingSimilarityEvaluator scores one list of pairs. This one scores whole benchmarks: it checks the
counts, gives each set its own metric, and selects by the average. Correlations are fractions of 1, as in that library.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator

from diffcse.errors import InputError
from diffcse.evaluation.data import find_sets
from diffcse.evaluation.measuring import EmbedOnce
from diffcse.evaluation.sts import PairSet, score_sts, split_of


class StsEvaluator(SentenceEvaluator):
    """Spearman of cosine on STS sets, all pairs of a set together; `primary_metric` is their mean.

        evaluator = StsEvaluator("sts-folder", only=["STSB-dev"])
        SentenceTransformerTrainer(model, args, ..., evaluator=evaluator)

    with `metric_for_best_model="eval_" + evaluator.primary_metric` and `load_best_model_at_end=True`.

    Args:
        sets: a folder (as `find_sets` reads it), one set, or sets by name.
        only: names of sets. By default a folder's dev splits, if it has any: a set that selects cannot test too.
        name: begins every metric's name.
        batch_size: of `model.encode`.

    Raises:
        InputError: there is no such set, or `find_sets` cannot read the folder.
    """

    def __init__(
        self,
        sets: str | Path | PairSet | Mapping[str, PairSet],
        *,
        only: list[str] | None = None,
        name: str = "sts",
        batch_size: int = 64,
    ) -> None:
        super().__init__()
        self.sets = _chosen(sets, only)
        self.name, self.batch_size = name, batch_size
        self.primary_metric = "mean_spearman"
        self.prefix_name_to_metrics({}, name)  # adds the prefix to the primary metric

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """Metrics by name: `<name>_<set>_spearman`, `<name>_<set>_pearson`, and `<name>_mean_spearman`."""

        def encode(sentences: list[str]) -> np.ndarray:
            rows = model.encode(sentences, batch_size=self.batch_size, convert_to_numpy=True, show_progress_bar=False)
            return np.asarray(rows, dtype=np.float32)

        once = EmbedOnce(encode)
        metrics: dict[str, float] = {}
        for name, pairs in self.sets.items():
            score = score_sts(once, pairs).all
            metrics[f"{name}_spearman"], metrics[f"{name}_pearson"] = score.spearman / 100, score.pearson / 100
        metrics["mean_spearman"] = float(np.mean([v for name, v in metrics.items() if name.endswith("_spearman")]))
        metrics = self.prefix_name_to_metrics(metrics, self.name)
        self.store_metrics_in_model_card_data(model, metrics, epoch, steps)
        return metrics

    @property
    def description(self) -> str:
        """For the model card."""
        return "Semantic Textual Similarity"


def _chosen(sets: str | Path | PairSet | Mapping[str, PairSet], only: list[str] | None) -> dict[str, PairSet]:
    if isinstance(sets, PairSet):
        chosen = {sets.name: sets}
    elif isinstance(sets, Mapping):
        chosen = dict(sets)
    else:
        chosen = find_sets(sets)
        if only is None:
            dev = [name for name in chosen if split_of(name) == "dev"]
            only = dev or None
    missing = [name for name in only or () if name not in chosen]
    if missing:
        raise InputError(f"no set {', '.join(missing)}; there are: {', '.join(chosen)}")
    return {name: pairs for name, pairs in chosen.items() if only is None or name in only}
