"""Conditional gain of a finished run: what its embeddings tell the discriminator that the run kept."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffcse.config import EDITS, Config, load_recipe
from diffcse.encoder.load import start_layout
from diffcse.evaluation.data import TextSet
from diffcse.evaluation.sts import PairSet
from diffcse.method.build import build
from diffcse.method.inspect import conditional_gain
from diffcse.training.checkpoints import load_weights
from diffcse.training.collate import Collate
from diffcse.training.folder import PARTS

AT_MOST = 2048
"""Sentences that the gain is measured on."""
_BATCH = 64

_UNDEFINED = (
    ("difference", lambda value: value != "rtd", "D judges no edits"),
    ("condition", lambda value: value == "none", "D does not see the embedding"),
    ("pairing", lambda value: value == "next", "D judges another sentence than the embedded one"),
)


class NoGain(Exception):
    """Why conditional gain is not defined for a run."""


def measure_gain(run: Path, text: PairSet | TextSet) -> dict[str, Any] | None:
    """Conditional gain of the run in the folder `run` on `text`; None where the run kept no discriminator.

    Measured over all edits that D was trained on, where each sentence draws one, and over each edit alone.

    Raises:
        NoGain: the gain is not defined for this method, or the text has fewer than two distinct sentences.
        InputError: the kept weights cannot be loaded.
    """
    if not (run / PARTS).is_file() or not (run / "recipe.toml").is_file():
        return None
    config = load_recipe(str(run / "recipe.toml"))
    for name, undefined, reason in _UNDEFINED:
        value = getattr(config.method, name)
        if undefined(value):
            raise NoGain(f'method.{name} = "{value}": {reason}')
    sentences = _sample(text)
    edits = config.method.edits
    whole = _gain(run, config, edits, sentences)
    alone = {edit: _gain(run, config, (edit,), sentences) if len(edits) > 1 else whole for edit in edits}
    return {"text": text.name, "n": len(sentences), **whole, "edits": list(edits), "by_edit": alone}


def add_gains(report: dict[str, Any], runs: Sequence[str], text: PairSet | TextSet) -> None:
    """Add conditional gain to those results of `report` that come from `runs` with a kept discriminator.

    `runs` are the sources of the report's first results, in order. A run without a defined gain adds a note.
    """
    for source, result in zip(runs, report["results"], strict=False):
        try:
            gain = measure_gain(Path(source), text)
        except NoGain as reason:
            report["notes"].append(f"{source}: conditional gain is not defined: {reason}")
            continue
        if gain is not None:
            result["conditional_gain"] = gain


def _sample(text: PairSet | TextSet) -> list[str]:
    """At most `AT_MOST` distinct sentences, shuffled: sentences next to each other in a file share their topic."""
    sentences = text.sentences if isinstance(text, TextSet) else (*text.first, *text.second)
    distinct = list(dict.fromkeys(sentence for sentence in sentences if sentence))
    if len(distinct) < 2:
        raise NoGain(f"{text.name} has fewer than 2 distinct sentences")
    random.Random(0).shuffle(distinct)
    # A last batch of one sentence has no other embedding to compare with.
    return distinct[: min(AT_MOST, len(distinct) - (len(distinct) % _BATCH == 1))]


def _gain(run: Path, config: Config, edits: tuple[Any, ...], sentences: Sequence[str]) -> dict[str, Any]:
    """The gain over `edits`, in plain JSON values."""
    method = dataclasses.replace(config.method, edits=edits)
    start = start_layout(method.model)
    model, tokenizer = build(method, seed=config.training.seed, tail=start.tail)
    load_weights(model.trained_state(), run / PARTS)
    collate = Collate(tokenizer, config.training.max_tokens, prompt=start.settings.prompt)
    batches = (collate(sentences[i : i + _BATCH]) for i in range(0, len(sentences), _BATCH))
    figures = dataclasses.asdict(conditional_gain(model, batches))
    names = {"masked": Path(method.generator or method.model).name, "causal": Path(method.causal_generator or "").name}
    generators = dict.fromkeys(names[kind] for edit in edits if (kind := EDITS[edit].generator) is not None)
    rounded = {name: value if isinstance(value, int) else float(f"{value:.6g}") for name, value in figures.items()}
    return {**rounded, "generator": ", ".join(generators) or None}
