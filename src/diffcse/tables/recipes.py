"""Recipes x seeds -> runs on one text, ready to be compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffcse.config import PRESETS, Config, apply_preset, load_recipe
from diffcse.errors import InputError
from diffcse.evaluation.comparison import Source
from diffcse.training.run import run


def named_recipe(name: str) -> Config:
    """The recipe `name`, or `mini_cpu` with the preset `name`.

    Raises:
        InputError: neither exists.
    """
    try:
        return apply_preset(load_recipe("mini_cpu"), name) if name in PRESETS else load_recipe(name)
    except InputError as error:
        raise InputError(f"--recipes {str(error).removeprefix('--recipe ')}") from error


def train_recipes(
    recipes: Sequence[str],
    texts: Any,
    output: str | Path,
    *,
    seeds: int = 4,
    model: str | None = None,
    max_steps: int | None = None,
    text: Mapping[str, Any] | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> list[Source]:
    """Train every recipe with the seeds 0, 1, ... on `texts`, in `output`/RECIPE-seed-N. Complete runs are opened.

    Args:
        recipes: names of recipes or presets, or .toml files; the name given is the method's name.
        texts: files, or a corpus.
        model: the start of all; each recipe's own if None.
        max_steps: updates of the recipes that train weights.
        text: fields of the recipe's text section, such as {"column": "title"}.
        report: receives a line for each run.

    Raises:
        InputError: a recipe is unknown or given twice, seeds below 1, or as `training.run.run`.
    """
    if seeds < 1:
        raise InputError(f"seeds = {seeds}: must be 1 or more")
    if twice := [name for name in recipes if list(recipes).count(name) > 1]:
        raise InputError(f"{twice[0]}: given twice")
    configs = {name: _changed(named_recipe(name), model, max_steps, text or {}) for name in recipes}
    sources = []
    for name, config in configs.items():
        for seed in range(seeds):
            folder = Path(output) / f"{Path(name).stem}-seed-{seed}"
            report(f"training {name}, seed {seed}")
            seeded = dataclasses.replace(config, training=dataclasses.replace(config.training, seed=seed))
            record = run(seeded, texts, folder, resume=True).record
            sources.append(Source(str(folder), folder, name, record=record, seed=seed))
    return sources


def _changed(config: Config, model: str | None, max_steps: int | None, text: Mapping[str, Any]) -> Config:
    method, training = config.method, config.training
    if model is not None:
        method = dataclasses.replace(method, model=model)
    if max_steps is not None and method.learn == "weights":
        training = dataclasses.replace(training, max_steps=max_steps)
    return dataclasses.replace(config, method=method, training=training, text=dataclasses.replace(config.text, **text))
