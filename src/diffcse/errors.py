"""The error for wrong input.

A mistake in the input (a file, a line, a field, a recipe key, a model folder) raises `InputError`. The command line
prints its text and exits with code 2, without a traceback. Any other exception is a defect of this package and keeps
its traceback.
"""

from __future__ import annotations


class InputError(ValueError):
    """Input that cannot be used. The text says where (file, line, field), what is wrong, and what to do."""
