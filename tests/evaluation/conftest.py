"""A folder with a few sets of each kind."""

import pytest

from diffcse.evaluation.data import find_data
from tests.evaluation import folders


@pytest.fixture
def root(tmp_path):
    """A bit of everything."""
    root = tmp_path / "downstream"
    folders.stsb(root, "dev", n=24)
    folders.sick(root, "trial", n=24)
    folders.binary(root, "CR", ("CR/custrev.pos", "CR/custrev.neg"), n=40)
    folders.mrpc(root, n=40)
    folders.collection(root / "tiny", {"d1": "the sea", "d2": "a king"}, {"q": "sea"}, [("q", "d1", 1)])
    return root


@pytest.fixture
def data(root):
    return find_data([root], allow_partial=True)
