"""The model card of a trained encoder: README.md of the folder that ships."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from diffcse.config import Config, to_toml
from diffcse.evaluation.sts import OWN_PAIRS
from diffcse.record import verdict
from diffcse.text.corpus import Corpus
from diffcse.training.inputs import Inputs, example_name

_SOURCES = ("model", "generator", "causal_generator", "discriminator")


def public_name(source: str | None) -> str | None:
    """`source` for a card: of a local path the last part only, because other paths of this computer are private.

    A path whose last part means something else to the command line ("mini", "pairs") stays a path: "./mini".
    """
    if source is None or not Path(source).exists():
        return source
    name = Path(source).name
    return f"./{name}" if name in ("mini", OWN_PAIRS.stem) else name


def card(config: Config, inputs: Inputs, scores: dict[str, Any]) -> str:
    """README.md in the format of the Hugging Face hub."""
    config = _public(config)
    training, method = config.training, _method_name(config)
    labels = "on labelled pairs" if config.text.supervised else "without labels"
    judged = verdict(scores)
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, sentence-similarity, {"simcse" if config.method.difference == "none" else "diffcse"}]
---

# A sentence encoder trained by {method}

Trained {labels} from `{config.method.model}` on {len(inputs.examples):,} {example_name(config)}
(SHA-256 of the text `{inputs.corpus.sha256[:16]}…`), {_steps(config, inputs)} cut at
{training.max_tokens} tokens. Pooling: {config.method.pooling}. Compare embeddings by cosine.
{f"{chr(10)}{judged[0].upper()}{judged[1:]}.{chr(10)}" if judged else ""}
```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("this folder")
model.similarity(model.encode(["A sentence."]), model.encode(["Another one."]))
```

The folder holds the encoder only. Projector, generator and discriminator were for training. The encoder knows sentences
like those of the training text. It inherits the biases of that text and of the checkpoint it started from.

## Recipe

```toml
{to_toml(config)}```
"""


def adapt_card(config: Config, corpus: Corpus, used: int, scores: dict[str, Any]) -> str:
    """The card of an encoder with a map, or of a start that nothing improved."""
    config = _public(config)
    judged = verdict(scores)
    learned = f"learned without labels from {used:,} of\n{len(corpus):,} texts (SHA-256 `{corpus.sha256[:16]}…`)"
    what = (
        f"`{config.method.model}` with a linear layer behind it. The layer was {learned}.\n"
        "The weights of the encoder are unchanged. Compare embeddings by cosine."
    )
    if scores["shipped"] == "start":
        what = f"`{config.method.model}`, unchanged: a linear layer {learned} made the graded pairs worse."
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, sentence-similarity]
---

# A sentence encoder adapted to a field

{what}
{f"{chr(10)}{judged[0].upper()}{judged[1:]}.{chr(10)}" if judged else ""}
```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("this folder")
model.similarity(model.encode(["A sentence."]), model.encode(["Another one."]))
```

## Recipe

```toml
{to_toml(config)}```
"""


def _public(config: Config) -> Config:
    """`config` with names in place of local paths."""
    names = {field: public_name(getattr(config.method, field)) for field in _SOURCES}
    return dataclasses.replace(
        config,
        method=dataclasses.replace(config.method, **names),  # type: ignore[arg-type]
        training=dataclasses.replace(config.training, dev=public_name(config.training.dev)),
    )


def _method_name(config: Config) -> str:
    method = "SimCSE" if config.method.difference == "none" else "DiffCSE"
    role = config.method.edit_role
    return (
        f"{'supervised ' if config.text.supervised else ''}{method}"
        f"{'' if role == 'difference' else f', with an edited copy of each sentence as one more {role}'}"
    )


def _steps(config: Config, inputs: Inputs) -> str:
    """ "6 steps of 32 sentences"; "at most 32" where the last update of an epoch has fewer batches."""
    batch = config.training.batch_size * config.training.accumulation
    at_most = "at most " if inputs.sentences_seen < inputs.steps * batch else ""
    return f"{inputs.steps:,} steps of {at_most}{batch} {example_name(config)}"
