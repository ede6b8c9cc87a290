"""Examples that need an optional package run as they are written."""

import runpy
import sys
from pathlib import Path

import pytest

from diffcse.encoder.load import load
from diffcse.encoder.save import save
from diffcse.evaluation.sts import OWN_PAIRS, read_pairs, score_sts
from tests.models import SENTENCES, save_tiny

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_the_example_without_torch_says_its_usage(tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    for arguments in ([], [str(tmp_path), "a cat"]):
        monkeypatch.setattr(sys, "argv", ["onnx_without_torch.py", *arguments])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(EXAMPLES / "onnx_without_torch.py"))
        err = capsys.readouterr().err
        assert (stop.value.code, err.count("\n"), "usage: " in err) == (2, 1, True)


@pytest.mark.filterwarnings("ignore")
def test_our_folders_are_models_of_mteb_and_local_data_its_tasks(tmp_path, monkeypatch, capsys):
    pytest.importorskip("mteb")
    encoder = load(save_tiny(tmp_path / "start", "bert"), pooling="mean")
    save(encoder, tmp_path / "model", "# A model\n")
    rows = [f"{text},{'short' if len(text) < 25 else 'long'}" for text in SENTENCES]
    (tmp_path / "labelled.csv").write_text("\n".join(["text,label", *rows]))
    arguments = [tmp_path / "model", "--pairs", OWN_PAIRS, "--texts", tmp_path / "labelled.csv"]
    monkeypatch.setattr(sys, "argv", ["mteb_local.py", *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / "mteb_local.py"), run_name="__main__")
    scores = {name: float(score) for name, score in (line.split() for line in capsys.readouterr().out.splitlines())}
    assert scores["LocalPairs"] == pytest.approx(score_sts(encoder, read_pairs(OWN_PAIRS)).all.spearman, abs=0.02)
    assert 50 < scores["LocalTexts"] <= 100
