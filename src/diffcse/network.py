"""The model hub, asked once: without a network the answer comes after five seconds, not after many retries."""

from __future__ import annotations

import difflib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from diffcse.errors import InputError

WAIT = 5.0
"""Seconds to wait for the hub."""
_FRESH = 60.0
"""Seconds for which an answer holds."""
_answer: tuple[float, str] | None = None
"""When the hub was asked, and why it did not answer (empty: it did)."""


def check_spelling(name: str) -> None:
    """That a name without a folder is not a slip of the bundled model's: the hub is then not asked.

    Raises:
        InputError: it is nearly "mini".
    """
    if name != "mini" and difflib.get_close_matches(name.lower(), ["mini"], 1, 0.75):
        raise InputError(f"{name}: there is no such model. Did you mean mini?")


def why_unreachable() -> str:
    """Why the hub cannot be reached, or an empty string."""
    global _answer
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    if _answer is None or time.monotonic() - _answer[0] > _FRESH:
        _answer = time.monotonic(), _ask()
    return _answer[1]


def _ask() -> str:
    """Ask the hub for anything. A thread asks, because the search for an address has no time limit."""
    reason = [f"no answer within {WAIT:g} s"]

    def ask() -> None:
        from huggingface_hub import constants, get_session

        try:
            get_session().head(constants.ENDPOINT, timeout=WAIT)
            reason[0] = ""
        except Exception as error:  # of the HTTP library, which changed with a release of the hub's
            reason[0] = str(error).strip().partition("\n")[0] or type(error).__name__

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(WAIT)
    return reason[0]


@contextmanager
def hub_or_cache() -> Iterator[None]:
    """Within the block the hub's libraries use their cache alone, if the hub cannot be reached."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = bool(why_unreachable())
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def is_unreachable(error: Exception) -> bool:
    """Whether a library failed for want of the network. Each has its own errors for that, so their names decide."""
    return any(
        word in name for name in _kinds(error) for word in ("Connect", "Timeout", "Offline", "LocalEntryNotFound")
    )


def why_not_loaded(error: Exception) -> str:
    """Why something is not loaded from the hub, and what to do."""
    if "RepositoryNotFoundError" in _kinds(error):
        return "the hub has none of this name. Check the spelling; a private one needs hf auth login"
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    if is_unreachable(error):
        reason = why_unreachable() or reason
        return f"the hub cannot be reached ({reason}), and its cache has none. Check the spelling, or name a folder"
    return reason


def _kinds(error: BaseException | None) -> set[str]:
    """Names of the classes of an error, and of those that led to it."""
    names: set[str] = set()
    while error is not None:
        names |= {kind.__name__ for kind in type(error).__mro__}
        error = error.__cause__ or error.__context__
    return names
