"""The DiffCSE toolkit: sentence embeddings from plain text without labels.

    >>> import diffcse
    >>> config = diffcse.load_recipe("mini_cpu")
    >>> config.method.temperature
    0.05

A name is loaded when it is first used, so that importing the package is fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from diffcse import machine as machine  # counts the cores before torch can bind this thread to one

if TYPE_CHECKING:
    from diffcse.api import compare, embed, train
    from diffcse.config import Config, Method, Text, Training, load_recipe
    from diffcse.encoder.encode import Encoder
    from diffcse.encoder.export import export
    from diffcse.encoder.load import load
    from diffcse.encoder.save import save
    from diffcse.encoder.similarity import encode, similarity
    from diffcse.errors import InputError
    from diffcse.evaluation.data import find_data
    from diffcse.evaluation.report import evaluate
    from diffcse.grouping.clusters import cluster
    from diffcse.grouping.duplicates import dedup
    from diffcse.integrations.evaluators import StsEvaluator
    from diffcse.method.build import build
    from diffcse.method.inspect import conditional_gain, judge
    from diffcse.method.paper import DiffCSE, Terms
    from diffcse.pretraining.config import Pretraining, load_pretraining
    from diffcse.pretraining.run import pretrain
    from diffcse.searching.hits import Hit, search
    from diffcse.searching.index import Index
    from diffcse.text.corpus import Corpus, read_corpus
    from diffcse.text.examples import Examples, read_examples
    from diffcse.training.run import Trained

_HOMES = {
    "Config": "config",
    "Method": "config",
    "Text": "config",
    "Training": "config",
    "load_recipe": "config",
    "Pretraining": "pretraining.config",
    "load_pretraining": "pretraining.config",
    "pretrain": "pretraining.run",
    "InputError": "errors",
    "Corpus": "text.corpus",
    "read_corpus": "text.corpus",
    "Examples": "text.examples",
    "read_examples": "text.examples",
    "DiffCSE": "method.paper",
    "Terms": "method.paper",
    "build": "method.build",
    "conditional_gain": "method.inspect",
    "judge": "method.inspect",
    "Trained": "training.run",
    "train": "api",
    "Encoder": "encoder.encode",
    "load": "encoder.load",
    "save": "encoder.save",
    "encode": "encoder.similarity",
    "similarity": "encoder.similarity",
    "compare": "api",
    "embed": "api",
    "dedup": "grouping.duplicates",
    "cluster": "grouping.clusters",
    "Hit": "searching.hits",
    "Index": "searching.index",
    "search": "searching.hits",
    "export": "encoder.export",
    "evaluate": "evaluation.report",
    "find_data": "evaluation.data",
    "StsEvaluator": "integrations.evaluators",
}

__all__ = [
    "Config",
    "Corpus",
    "DiffCSE",
    "Encoder",
    "Examples",
    "Hit",
    "Index",
    "InputError",
    "Method",
    "Pretraining",
    "StsEvaluator",
    "Terms",
    "Text",
    "Trained",
    "Training",
    "build",
    "cluster",
    "compare",
    "conditional_gain",
    "dedup",
    "embed",
    "encode",
    "evaluate",
    "export",
    "find_data",
    "judge",
    "load",
    "load_pretraining",
    "load_recipe",
    "pretrain",
    "read_corpus",
    "read_examples",
    "save",
    "search",
    "similarity",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("diffcse")
    if name not in _HOMES:
        raise AttributeError(f"module 'diffcse' has no attribute {name!r}")
    home = import_module(f"diffcse.{_HOMES[name]}")
    return getattr(home, name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
