"""Signals that end a command: Ctrl-C, SIGTERM (schedulers send it first) and SIGHUP (a closed terminal).

All three do the same: training first saves a checkpoint, and staged files are removed. A second signal ends at once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

NUMBERS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stops:
    """Within the block, each of the signals raises KeyboardInterrupt; after that, the next ends the process at once.

    A signal that the process ignores stays ignored (nohup), and so does one with a handler of another library. Outside
    the main thread nothing changes.
    """

    def __init__(self) -> None:
        self.first: int | None = None
        """Number of the signal that came first."""
        self._raised = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Stops:
        if threading.current_thread() is threading.main_thread():
            for number in NUMBERS:
                if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                    self._before[number] = signal.signal(number, self)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)  # type: ignore[arg-type]

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        if self._raised:
            os._exit(128 + number)
        self.note(number)
        self._raised = True
        raise KeyboardInterrupt

    def note(self, number: int) -> None:
        """Remember a signal that another handler takes, unless one came before."""
        self.first = self.first or number


class Stop:
    """Whether a signal asked for an end; a loop reads it between two updates."""

    def __init__(self) -> None:
        self.asked = False


def say_at_once(line: str) -> None:
    """Print to standard error from a signal handler.

    It bypasses Python's streams, which may be in the middle of a line. An error is ignored, because the reader (`tee`)
    may have died of the same Ctrl-C.
    """
    with suppress(OSError):
        os.write(2, f"\n{line}\n".encode())


@contextmanager
def stop_between_steps(*, quiet: bool = False) -> Iterator[Stop]:
    """Inside the block a signal only sets `asked`, so that a loop can save a checkpoint first. A second ends at once.

    It takes the signals of `Stops`, and Ctrl-C from Python's own handler. Other handlers stay, and so does everything
    outside the main thread.

    Args:
        quiet: another process of the same run says that it stops.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    handlers = {number: signal.getsignal(number) for number in NUMBERS}
    ours = {n: h for n, h in handlers.items() if isinstance(h, Stops) or h is signal.default_int_handler}

    def restore() -> None:
        for number, handler in ours.items():
            signal.signal(number, handler)

    def handle(number: int, frame: FrameType | None) -> None:
        stop.asked = True
        restore()
        if isinstance(handler := ours[signal.Signals(number)], Stops):
            handler.note(number)
        again = "Ctrl-C once more" if number == signal.SIGINT else "a second signal"
        if not quiet:
            say_at_once(f"{signal.Signals(number).name}: stopping after this step; {again} stops at once")

    for number in ours:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        restore()


def leave_to_parent() -> None:
    """Ignore the signals in a worker process: a scheduler sends them to all, and the main process ends its workers."""
    for number in NUMBERS:
        signal.signal(number, signal.SIG_IGN)
