"""The one error a user is meant to read.

Everything a person can get wrong (a file, a line, a field, a recipe key, a model folder) is raised as
`InputError`; the command line prints its text and exits with code 2, without a traceback. Any other exception is
a defect of ours and keeps its traceback.
"""

from __future__ import annotations


class InputError(ValueError):
    """What was given cannot be used. The text says where (file, line, field), what is wrong, and what to do."""
