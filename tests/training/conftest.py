"""A tiny encoder and graded pairs for the tests of training."""

import pytest

from tests.models import SENTENCES, save_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(save_tiny(tmp_path_factory.mktemp("tiny"), "bert"))


@pytest.fixture
def dev(tmp_path):
    path = tmp_path / "dev.tsv"
    rows = [f"{i % 5}.5\t{SENTENCES[i]}\t{SENTENCES[(i * 7 + 3) % 80]}" for i in range(20)]
    path.write_text("\n".join(rows) + "\n")
    return str(path)
