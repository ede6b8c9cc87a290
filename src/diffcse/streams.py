"""Standard streams that may be closed, full or missing: a run does not end because its lines cannot be shown."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any


class Output:
    """A text stream that drops what cannot be written, in place of an error; `error` is the first.

    Its other attributes are those of the stream.
    """

    def __init__(self, stream: Any, tell: Callable[[OSError], None] = lambda error: None) -> None:
        """`tell` is called with the first error."""
        self._stream, self._tell = stream, tell
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Write, and return the number of characters, also of those that are dropped."""
        if self._stream is None and text:
            self._lose(OSError(errno.EBADF, "it is closed"))
        elif self.error is None:
            self._do(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        """Send what is buffered."""
        if self._stream is not None and self.error is None:
            self._do(self._stream.flush)

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        try:
            return self._stream is not None and self._stream.isatty()
        except ValueError:  # Python's stream was closed
            return False

    def reconfigure(self, **options: Any) -> None:
        """Change encoding or errors, where the stream can."""
        with suppress(AttributeError, ValueError):  # no stream, a closed one, or another class
            self._stream.reconfigure(**options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _do(self, action: Any, *arguments: Any) -> None:
        try:
            action(*arguments)
        except UnicodeError:
            raise
        except (OSError, ValueError) as error:  # ValueError: Python's stream was closed
            self._lose(error if isinstance(error, OSError) else OSError(errno.EBADF, "it is closed"))

    def _lose(self, error: OSError) -> None:
        if self.error is not None:
            return
        self.error = error
        with suppress(AttributeError, OSError, ValueError):  # what is buffered would fail again when Python ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        self._tell(error)


@contextmanager
def safe_streams(*, tell_reader: bool) -> Iterator[Output]:
    """Within the block `sys.stdout` and `sys.stderr` are `Output`s. Yields that of standard output.

    Standard error says why standard output cannot be written; that its reader has gone only if `tell_reader`.
    """

    def tell(error: OSError) -> None:
        if tell_reader or error.errno != errno.EPIPE:
            print(
                f"warning  standard output: {error.strerror}. The command goes on; its other lines are lost.",
                file=sys.stderr,
            )

    for number, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        # Else the next file that is opened would get the number, and libraries would write into it.
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, flags), number)
    before = sys.stdout, sys.stderr
    output = Output(sys.stdout, tell)
    if getattr(sys.stdout, "errors", None) == "strict":
        output.reconfigure(errors="replace")  # some encodings lack the characters of tables and bars
    sys.stdout, sys.stderr = output, Output(sys.stderr)
    try:
        yield output
    finally:
        output.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before
