"""Ctrl-C, SIGTERM and SIGHUP: one orderly end, and a second signal ends at once."""

import os
import signal
import subprocess
import sys

import pytest

from diffcse.files import staged_file
from diffcse.stops import NUMBERS, Stops, leave_to_parent, stop_between_steps
from tests.cli.runs import command as run


@pytest.fixture(autouse=True)
def _defaults():
    """As in the foreground of a terminal; a background job is born deaf to Ctrl-C."""
    before = {number: signal.getsignal(number) for number in NUMBERS}
    for number in NUMBERS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_ends_a_command_in_order(number, capsys, monkeypatch, tmp_path):
    def work(*_):
        with staged_file(tmp_path / "vectors.npy"):
            os.kill(os.getpid(), number)

    monkeypatch.setattr("diffcse.cli._run", work)
    code, _, err = run(capsys, "train")
    assert code == 128 + number
    assert "stopped" in err
    assert "--resume" in err
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("number", NUMBERS)
def test_a_loop_ends_after_its_step(number):
    with Stops() as stops:
        with stop_between_steps() as stop:
            os.kill(os.getpid(), number)
            assert stop.asked
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
        assert stops.first == number


def test_a_job_that_is_deaf_to_ctrl_c_hears_a_scheduler():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Stops() as stops, stop_between_steps() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert not stop.asked
        os.kill(os.getpid(), signal.SIGTERM)
        assert (stop.asked, stops.first) == (True, signal.SIGTERM)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_nohup_stays():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Stops(), stop_between_steps() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.asked


def test_without_the_command_line_python_decides():
    with stop_between_steps():
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_the_second_signal_ends_at_once():
    code = """
import os, signal
from diffcse.stops import Stops
signal.signal(signal.SIGINT, signal.default_int_handler)
with Stops():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        os.kill(os.getpid(), signal.SIGINT)
        print("cleaned up")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_worker_leaves_signals_to_the_main_process():
    leave_to_parent()
    for number in NUMBERS:
        os.kill(os.getpid(), number)
