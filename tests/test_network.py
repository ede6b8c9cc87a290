"""The hub is asked once, for a few seconds, and then it is said."""

import threading
import time

import huggingface_hub
import pytest
from huggingface_hub import constants

from diffcse import network
from diffcse.encoder.load import load
from diffcse.errors import InputError
from diffcse.method.loading import load_tokenizer
from diffcse.text.hub import Unreachable, parse


class Session:
    """A session whose requests end as `answer` does."""

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    def head(self, url, timeout):
        self.asked.append((url, timeout))
        return self.answer()


def fails():
    raise ConnectionError("[Errno -2] Name or service not known")


@pytest.fixture
def session(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(network, "_answer", None)
    made = Session(fails)
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: made)
    return made


@pytest.mark.parametrize("read", [load, load_tokenizer])
def test_a_model_without_a_network(session, read):
    for _ in range(2):
        with pytest.raises(InputError, match=r"^owner/typo: .*no such folder.*cannot be reached \(\[Errno -2\]"):
            read("owner/typo")
    assert session.asked == [(constants.ENDPOINT, network.WAIT)]
    assert constants.HF_HUB_OFFLINE is False


def test_a_data_set_without_a_network(session):
    with pytest.raises(Unreachable, match=r"^hub:owner/typo: .*\[Errno -2\]"):
        parse("hub:owner/typo").stamp()


def test_a_hub_that_never_answers(session, monkeypatch):
    end = threading.Event()
    session.answer = end.wait
    monkeypatch.setattr(network, "WAIT", 0.1)
    began = time.monotonic()
    assert network.why_unreachable() == "no answer within 0.1 s"
    assert time.monotonic() - began < 5
    end.set()


def test_a_hub_that_answers_is_asked(session):
    session.answer = lambda: None
    with network.hub_or_cache():
        assert constants.HF_HUB_OFFLINE is False


def test_an_answer_holds_for_a_minute(session, monkeypatch):
    assert network.why_unreachable()
    session.answer = lambda: None
    assert network.why_unreachable()
    monkeypatch.setattr(network, "_FRESH", -1.0)
    assert not network.why_unreachable()


class RepositoryNotFoundError(Exception):
    """As huggingface_hub raises it."""


def test_a_name_that_the_hub_does_not_have(session, monkeypatch):
    def missing(*_, **__):
        raise RepositoryNotFoundError("404 Client Error. (Request ID: 1)")

    session.answer = lambda: None
    monkeypatch.setattr("diffcse.encoder.load.snapshot_download", missing)
    with pytest.raises(InputError, match=r"owner/typo: .*the hub has none of this name"):
        load("owner/typo")
