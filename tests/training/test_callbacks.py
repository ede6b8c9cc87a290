"""transformers' callbacks are called by our loop, with what they need, and what they ask for is done."""

import dataclasses
import json
import socket
import sqlite3
import sys

import pytest
from transformers import TrainerCallback

from diffcse.config import Config, Method, Training
from diffcse.errors import InputError
from diffcse.record import read_record
from diffcse.text.corpus import Corpus
from diffcse.training import run as train
from diffcse.training.callbacks import trackers
from diffcse.training.run import run
from tests.models import SENTENCES, save_tiny

CORPUS = Corpus.from_sentences(SENTENCES)
DEV = "".join(f"{i % 5}\t{SENTENCES[i]}\t{SENTENCES[(i * 7 + 3) % 80]}\n" for i in range(20))


@pytest.fixture
def config(tmp_path):
    (tmp_path / "dev.tsv").write_text(DEV)
    training = Training(
        batch_size=8, max_steps=6, precision="fp32", log_every=2, eval_every=3, dev=str(tmp_path / "dev.tsv")
    )
    model = str(save_tiny(tmp_path / "tiny", "bert"))
    return Config(method=Method(model=model, difference="none"), training=training)


class Spy(TrainerCallback):
    """Notes (event, step, facts) of every call."""

    def __init__(self):
        self.calls = []

    def __getattribute__(self, name):
        if not name.startswith("on_"):
            return super().__getattribute__(name)

        def note(args, state, control, **facts):
            self.calls.append((name, state.global_step, facts))
            assert args.max_steps == state.max_steps == 6
            assert facts["model"].training or name != "on_step_begin"
            assert facts["optimizer"].param_groups

        return note


def test_events_in_order(config, tmp_path):
    spy = Spy()
    record = run(config, CORPUS, tmp_path / "out", callbacks=[spy]).record
    step = ["on_step_begin", "on_step_end"]
    log, evaluate, save = ["on_log"], ["on_log", "on_evaluate"], ["on_save"]
    assert [name for name, _, _ in spy.calls] == [
        *("on_train_begin", *evaluate, *step, *step, *log, *step, *evaluate, *step, *log, *step, *step),
        *(*log, *evaluate, *save, "on_train_end"),
    ]
    losses = {
        at: facts["logs"]["loss"] for name, at, facts in spy.calls if name == "on_log" and "loss" in facts["logs"]
    }
    assert losses == {entry["step"]: entry["loss"] for entry in record.log if "loss" in entry}
    scores = {at: facts["metrics"]["eval_dev"] for name, at, facts in spy.calls if name == "on_evaluate"}
    assert scores == {entry["step"]: entry["dev"] for entry in record.log if "dev" in entry}


def reporting(config, name):
    return dataclasses.replace(config, training=dataclasses.replace(config.training, report_to=name))


def test_a_tracker_changes_no_number(config, tmp_path, monkeypatch):
    spy = Spy()
    monkeypatch.setattr(train, "trackers", lambda name: [spy] if name == "wandb" else [])
    runs = [run(reporting(config, name), CORPUS, tmp_path / name).record for name in ("none", "wandb")]
    assert len(spy.calls) > 20
    one, other = ([e["loss"] for e in record.log if "loss" in e] for record in runs)
    assert one == other


def test_a_tracker_that_is_not_installed_is_named(config, tmp_path, monkeypatch):
    def missing(name):
        class Tracker:
            def __init__(self):
                raise RuntimeError("requires it to be installed")

        return [Tracker]

    monkeypatch.setattr("transformers.integrations.get_reporting_integration_callbacks", missing)
    assert trackers("none") == []
    with pytest.raises(InputError, match=r"training\.report_to.*pip install trackio"):
        run(reporting(config, "trackio"), CORPUS, tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Ask(TrainerCallback):
    """Asks for everything after the first step, and for the end after the fourth."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_log = control.should_evaluate = control.should_save = state.global_step == 1
        control.should_training_stop = state.global_step == 4
        return control


def test_what_a_callback_asks_for_is_done(config, tmp_path):
    saved = []

    class Saved(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            saved.append(state.global_step)

    record = run(config, CORPUS, tmp_path / "out", callbacks=[Ask(), Saved()]).record
    assert [entry["step"] for entry in record.log if "loss" in entry] == [1, 2, 4]
    assert [entry["step"] for entry in record.log if "dev" in entry] == [0, 1, 3, 4]
    assert saved == [1, 4]
    assert read_record(tmp_path / "out" / "run.json").status == "complete"
    assert record.scores["steps"] == 4


@pytest.fixture
def no_network(monkeypatch):
    """No connection leaves this machine."""
    connect = socket.socket.connect

    def local(self, address):
        assert self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1", "localhost"), address
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local)


def test_tensorboard_gets_the_losses_offline(config, tmp_path, no_network):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    record = run(reporting(config, "tensorboard"), CORPUS, tmp_path / "out").record
    (file,) = (tmp_path / "out").rglob("events.out.tfevents*")
    events = EventAccumulator(str(file))
    events.Reload()
    losses = {event.step: event.value for event in events.Scalars("train/loss")}
    assert losses == pytest.approx({entry["step"]: entry["loss"] for entry in record.log if "loss" in entry})


def test_trackio_gets_the_losses_offline(config, tmp_path, no_network, monkeypatch):
    pytest.importorskip("trackio")
    for name, module in [*sys.modules.items()]:
        if name.split(".")[0] == "trackio" and hasattr(module, "TRACKIO_DIR"):
            monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    record = run(reporting(config, "trackio"), CORPUS, tmp_path / "out").record
    (file,) = (tmp_path / "trackio").rglob("*.db")
    with sqlite3.connect(file) as database:
        rows = [json.loads(row[0]) for row in database.execute("select metrics from metrics")]
    losses = {row["train/global_step"]: row["train/loss"] for row in rows if "train/loss" in row}
    assert losses == pytest.approx({entry["step"]: entry["loss"] for entry in record.log if "loss" in entry})
