"""What may be asked of `dedup` and `cluster`. It imports nothing heavy, so that a wrong value is answered at once."""

from __future__ import annotations

from importlib.util import find_spec

from diffcse.errors import InputError


def check_threshold(threshold: float | str) -> float | None:
    """The threshold as a number; None for "auto".

    Raises:
        InputError: neither "auto" nor a cosine above 0.
    """
    if threshold == "auto":
        return None
    try:
        value = float(threshold)
    except ValueError:
        value = float("nan")
    if not 0 < value <= 1:
        raise InputError(f"--threshold {threshold}: must be auto, or a cosine above 0 and at most 1, such as 0.9")
    return value


def check_k(k: int | str) -> int | None:
    """k as a number; None for "auto".

    Raises:
        InputError: neither "auto" nor a whole number of at least 2.
    """
    if k == "auto":
        return None
    try:
        number = int(k)
    except ValueError:
        number = 0
    if number < 2:
        raise InputError(f"--k {k}: must be auto, or a whole number of at least 2")
    return number


def require_rensa() -> None:
    """Check that MinHash is installed.

    Raises:
        InputError: it is not; names the command that installs it.
    """
    if find_spec("rensa") is None:
        raise InputError('near-duplicates need the package rensa. Install it: pip install "diffcse[doctor]"')
