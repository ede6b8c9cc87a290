"""Local data as tasks of mteb, without a network: graded pairs as STS, labelled texts as classification.

    pip install "diffcse[mteb]"
    python examples/mteb_local.py MODEL --pairs pairs.tsv --texts labelled.csv

MODEL is a folder of `diffcse train` (its model/), or any other that sentence-transformers loads. pairs.tsv has score,
sentence 1 and sentence 2 on each line. labelled.csv has the columns text and label; every fifth row is tested on.
"""

import argparse
import csv
from pathlib import Path

import mteb
from datasets import Dataset, DatasetDict
from mteb.abstasks.classification import AbsTaskClassification
from mteb.abstasks.sts import AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata
from sentence_transformers import SentenceTransformer


def describe(name: str, kind: str, score: str) -> TaskMetadata:
    """What mteb wants to know of a task."""
    return TaskMetadata(
        name=name,
        description="Local data",
        type=kind,
        dataset={"path": "local/local", "revision": "local"},
        eval_langs=["eng-Latn"],
        main_score=score,
    )


def pairs_task(file: Path) -> AbsTaskSTS:
    """Do cosines order the graded pairs of `file` as people do?"""
    rows = [line.split("\t")[:3] for line in file.read_text(encoding="utf-8").splitlines()]
    scores, first, second = zip(*rows, strict=True)
    numbers = [float(score) for score in scores]

    class LocalPairs(AbsTaskSTS):
        metadata = describe("LocalPairs", "STS", "cosine_spearman")
        min_score, max_score = min(numbers), max(numbers)

        def load_data(self, *_: object, **__: object) -> None:
            data = {"sentence1": list(first), "sentence2": list(second), "score": numbers}
            self.dataset = DatasetDict(test=Dataset.from_dict(data))
            self.data_loaded = True

    return LocalPairs()


def texts_task(file: Path) -> AbsTaskClassification:
    """Can a classifier learn the labels of `file` from a few embeddings of each?"""
    with file.open(encoding="utf-8", newline="") as handle:
        rows = [(row["text"], row["label"]) for row in csv.DictReader(handle)]
    numbers = {label: number for number, label in enumerate(sorted({label for _, label in rows}))}

    class LocalTexts(AbsTaskClassification):
        metadata = describe("LocalTexts", "Classification", "accuracy")

        def load_data(self, *_: object, **__: object) -> None:
            parts = {"test": rows[::5], "train": [row for i, row in enumerate(rows) if i % 5]}
            self.dataset = DatasetDict(
                {
                    name: Dataset.from_dict({"text": [t for t, _ in part], "label": [numbers[y] for _, y in part]})
                    for name, part in parts.items()
                }
            )
            self.data_loaded = True

    return LocalTexts()


def main() -> None:
    """Print the main score of each task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--texts", type=Path)
    options = parser.parse_args()
    tasks = [pairs_task(options.pairs)] if options.pairs else []
    tasks += [texts_task(options.texts)] if options.texts else []
    model = SentenceTransformer(options.model)
    results = mteb.evaluate(model, tasks, cache=None, co2_tracker=False, show_progress_bar=False)
    for result in results.task_results:
        print(f"{result.task_name}  {100 * result.get_score():.2f}")


if __name__ == "__main__":
    main()
