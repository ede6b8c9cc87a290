"""Short runs for the tests of training: settings, runs that must fail, and runs that were killed."""

import contextlib

import pytest

from diffcse.config import Config, Method, Training
from diffcse.errors import InputError
from diffcse.record import read_record
from diffcse.text.corpus import Corpus
from diffcse.training.run import run
from tests.models import SENTENCES

CORPUS = Corpus.from_sentences(SENTENCES)


def config(tiny, *, method=(), **training):
    settings = {"batch_size": 8, "max_steps": 6, "learning_rate": 1e-3, "precision": "fp32", "log_every": 2, **training}
    return Config(method=Method(model=tiny, **dict(method)), training=Training(**settings))


def refuse(match, settings, folder, corpus=CORPUS, **options):
    with pytest.raises(InputError, match=match):
        run(settings, corpus, folder, **options)


def begin(settings, folder, corpus=CORPUS, *, complete=False):
    """A run of `settings`, or one that was killed at its first log entry."""

    def kill(event, facts):
        if event == "log" and not complete:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        run(settings, corpus, folder, report=kill)
    assert (read_record(folder / "run.json").status == "complete") == complete
