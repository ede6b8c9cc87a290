"""Small texts and recipes that the tests of this room share."""

import contextlib
import dataclasses
import itertools

import numpy as np
from safetensors.torch import load_file

from diffcse.pretraining.config import Pretraining
from diffcse.pretraining.run import pretrain
from diffcse.record import read_record
from diffcse.text.corpus import Corpus

# Eight hundred sentences of two families whose words never mix: half a sentence tells of the other half.
TEXT = [
    f"the {a} {b} {c} the {d}"
    for family in (
        ("red blue old small big", "car train boat ship bus", "passes leaves reaches meets", "town road bridge river"),
        (
            "young tall kind happy wise",
            "man girl boy king queen",
            "greets helps likes sees",
            "mother friend guest child",
        ),
    )
    for a, b, c, d in itertools.product(*map(str.split, family))
]
CORPUS = Corpus.from_sentences(TEXT)


def documents():
    """TEXT in documents of one to six sentences of one family, an empty line after each."""
    random, lines = np.random.default_rng(0), []
    for family in random.integers(0, 2, 300):
        chosen = random.integers(0, len(TEXT) // 2, random.integers(1, 7)) + family * len(TEXT) // 2
        lines += [*(TEXT[i] for i in chosen), ""]
    return lines


LINES = documents()
DOCUMENTS = Corpus.from_sentences(LINES, documents=True)
TINY = Pretraining(
    vocabulary=120,
    layers=1,
    width=16,
    heads=2,
    intermediate=32,
    positions=32,
    max_tokens=16,
    batch_tokens=256,
    max_steps=6,
    learning_rate=1e-2,
    held_out=40,
    precision="fp32",
    log_every=2,
    eval_every=3,
    checkpoint_every=2,
)


def tiny(**fields):
    return dataclasses.replace(TINY, **fields)


def weights_of(folder):
    return load_file(folder / "model" / "model.safetensors")


def begun(config, output, *, complete, corpus=CORPUS):
    """A run of `config`, or one that was stopped after eight steps."""

    def stop(event, facts):
        if event == "log" and facts["step"] == 8 and not complete:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        pretrain(config, corpus, output, report=stop)
    assert (read_record(output / "run.json").status == "complete") == complete
