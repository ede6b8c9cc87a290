"""The model card of a trained encoder: README.md of the folder that ships."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData, try_to_load_from_cache
from huggingface_hub.repocard import metadata_load

from diffcse.config import Config, to_toml
from diffcse.encoder.share import CARD, HUB_ID, forces_licence
from diffcse.evaluation.sts import OWN_PAIRS
from diffcse.method.loading import named
from diffcse.record import verdict
from diffcse.text.corpus import Corpus
from diffcse.text.examples import Examples
from diffcse.text.survey import main_language
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
    front = front_matter(config, inputs.corpus, scores)
    config = _public(config)
    labels = "on labelled pairs" if config.text.supervised else "without labels"
    what = f"""Trained {labels} from `{config.method.model}` on {len(inputs.examples):,} {example_name(config)}
(SHA-256 of the text `{inputs.corpus.sha256[:16]}…`), {_steps(config, inputs)} cut at
{config.training.max_tokens} tokens. Pooling: {config.method.pooling}. Compare embeddings by cosine."""
    after = """The folder holds the encoder only. Projector, generator and discriminator were for training. The encoder
knows sentences like those of the training text. It inherits the biases of that text and of the checkpoint it started
from.

"""
    return _page(front, f"A sentence encoder trained by {_method_name(config)}", what, scores, config, after)


def adapt_card(config: Config, corpus: Corpus, used: int, scores: dict[str, Any]) -> str:
    """The card of an encoder with a map, or of a start that nothing improved."""
    front = front_matter(config, corpus, scores)
    config = _public(config)
    learned = f"learned without labels from {used:,} of\n{len(corpus):,} texts (SHA-256 `{corpus.sha256[:16]}…`)"
    what = (
        f"`{config.method.model}` with a linear layer behind it. The layer was {learned}.\n"
        "The weights of the encoder are unchanged. Compare embeddings by cosine."
    )
    if scores["shipped"] == "start":
        what = f"`{config.method.model}`, unchanged: a linear layer {learned} lowered the dev score."
    return _page(front, "A sentence encoder adapted to a field", what, scores, config)


def front_matter(config: Config, text: Corpus | Examples, scores: dict[str, Any]) -> str:
    """The card's YAML for the hub: only what is known. A licence is there only if that of the start demands it."""
    start = start_facts(config.method.model)
    tag = "simcse" if config.method.difference == "none" else "diffcse"
    tags = ["sentence-transformers", "sentence-similarity", *([] if config.method.learn == "map" else [tag])]
    datasets = sorted({name for file in text.sources for name in re.findall(r"^hub:([\w.-]+/[\w.-]+)", file.name)})
    results = _results(scores)
    data = ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=tags,
        base_model=start.get("base_model"),
        license=start.get("license") if forces_licence(start.get("license")) else None,
        language=main_language(text) if isinstance(text, Corpus) else None,
        datasets=datasets or None,
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=config.name if results else None,
        eval_results=results or None,
    )
    return data.to_yaml()


def start_facts(source: str | None) -> dict[str, Any]:
    """The front matter of the card that a start has; of a hub id `base_model` is the id itself."""
    folder = named(source or "")
    if folder.exists():
        file = next((path for path in (folder / CARD, folder / "model" / CARD) if path.is_file()), None)
        facts: dict[str, Any] = {}
    else:
        cached = try_to_load_from_cache(str(source), CARD) if source and HUB_ID.fullmatch(source) else None
        file, facts = Path(cached) if isinstance(cached, str) else None, {"base_model": source}
    try:
        return {**((file and metadata_load(file)) or {}), **facts}
    except Exception:  # YAML's errors are its own; a card that is none says nothing
        return facts


def _results(scores: dict[str, Any]) -> list[EvalResult]:
    """What judged the encoder that ships, as the hub's results."""
    results = []
    for name, metric in (("dev", "spearman_cosine"), ("label_free", "mrr")):
        judged = scores.get(name) or {}
        if name == "dev" and not str(judged.get("metric", "Spearman")).startswith("Spearman"):
            metric = str(judged["metric"]).partition(",")[0]
        if isinstance(judged.get("best"), float):
            results.append(
                EvalResult(
                    task_type="sentence-similarity",
                    dataset_name=public_name(judged.get("file")) or "held-out training text",
                    dataset_type=name,
                    metric_type=metric,
                    metric_name=judged.get("metric", metric),
                    metric_value=round(judged["best"], 2),
                )
            )
    return results


def _page(front: str, title: str, what: str, scores: dict[str, Any], config: Config, after: str = "") -> str:
    judged = verdict(scores)
    return f"""---
{front}
---

# {title}

{what}
{f"{chr(10)}{judged[0].upper()}{judged[1:]}.{chr(10)}" if judged else ""}
```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("this folder")
model.similarity(model.encode(["A sentence."]), model.encode(["Another one."]))
```

{after}## Recipe

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
