"""An exported folder gives the encoder's embeddings in another program, or is refused."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from model2vec import StaticModel
from sentence_transformers import SentenceTransformer
from torch import nn

import diffcse
from diffcse.encoder import export as module
from diffcse.encoder.export import agreement, comparison_texts
from diffcse.encoder.load import load
from diffcse.encoder.settings import Settings
from diffcse.errors import InputError
from diffcse.method.tail import Dense
from diffcse.text.stdlib import Docstring, StdlibCorpus
from tests.cli.runs import command
from tests.models import SENTENCES, save_tiny, save_with_pooler

LONG = " ".join(SENTENCES[:8])
TEXTS = [*SENTENCES[:6], "", "Unknown \u00e9 words!", LONG]
FAMILIES = {
    "bert": "cls",
    "roberta": "mean",
    "distilbert": "first_last",
    "mpnet": "top2",
    "electra": "max",
    "xlm-roberta": "mean_sqrt_len",
    "albert": "weighted_mean",
    "deberta-v2": "last_token",
    "modernbert": "mean",
    "minilm": "pooler",
}
"""Every family of `tests.models` that is an encoder, and every pooling."""


@pytest.mark.parametrize("family", FAMILIES)
def test_onnx_gives_the_same_embeddings(family, tmp_path):
    pooling = FAMILIES[family]
    saved = save_with_pooler(tmp_path / "m", "bert") if pooling == "pooler" else save_tiny(tmp_path / "m", family)
    encoder = load(saved, pooling=pooling)
    exported = diffcse.export(encoder, tmp_path / "out", texts=SENTENCES)
    assert exported.least > 0.99999
    np.testing.assert_allclose(exported.encode(TEXTS), encoder(TEXTS), atol=1e-4)
    for some in (TEXTS[:1], SENTENCES[:20]):  # other numbers of rows and tokens
        np.testing.assert_allclose(exported.encode(some), encoder(some), atol=1e-4)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """An encoder with everything that may follow or precede the transformer."""
    torch.manual_seed(0)
    plain = load(save_tiny(tmp_path_factory.mktemp("full") / "m", "bert"), pooling="mean")
    tail = nn.Sequential(Dense(torch.randn(32, 32), torch.randn(32)))
    settings = Settings({"query": "the cat "}, "query", truncate_dim=24)
    return replace(plain, tail=tail, normalised=True, max_tokens=12, settings=settings)


@pytest.fixture(scope="module")
def onnx_folder(full, tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx") / "out"
    diffcse.export(full, folder, texts=TEXTS)
    return folder


def test_the_example_needs_no_torch(full, onnx_folder):
    program = (
        "import runpy, sys\n"
        "for name in ('torch', 'transformers', 'diffcse'): sys.modules[name] = None\n"
        "runpy.run_path(sys.argv.pop(1))"
    )
    example = Path(__file__).parents[2] / "examples" / "onnx_without_torch.py"
    lines = subprocess.run(
        [sys.executable, "-c", program, example, onnx_folder, *TEXTS], check=True, capture_output=True, text=True
    ).stdout
    rows = np.array([line.split() for line in lines.splitlines()], dtype=float)
    np.testing.assert_allclose(rows, full(TEXTS), atol=1e-5)
    assert rows.shape == (len(TEXTS), 24)


def test_the_folder_states_what_a_program_must_know(full, onnx_folder):
    facts = json.loads((onnx_folder / "export.json").read_text())
    assert (facts["default_prompt"], facts["prompts"], facts["max_tokens"], facts["width"], facts["normalised"]) == (
        "the cat ",
        {"query": "the cat "},
        12,
        24,
        True,
    )
    assert facts["comparison"]["sentences"] == len(TEXTS) - 1  # one is blank
    assert facts["comparison"]["least_cosine"] > 0.99999
    session = onnxruntime.InferenceSession(onnx_folder / "model.onnx")
    assert [given.name for given in session.get_inputs()] == facts["inputs"]
    assert [given.name for given in session.get_outputs()] == [facts["output"]]


def test_int8_is_close_and_small(tmp_path):
    encoder = load(save_tiny(tmp_path / "m", "bert", hidden=64), pooling="mean")
    exported = diffcse.export(encoder, tmp_path / "out", "onnx-int8", texts=SENTENCES)
    assert 0.99 < exported.least < 0.999999
    weights = sum(weight.numel() for weight in encoder.model.parameters())
    assert (tmp_path / "out/model.onnx").stat().st_size < 4 * weights


def test_openvino(full, tmp_path):
    pytest.importorskip("openvino")
    exported = diffcse.export(full, tmp_path / "out", "openvino", texts=TEXTS)
    assert exported.least > 0.9999  # its weights are float16
    assert {file.name for file in (tmp_path / "out").iterdir()} >= {"model.xml", "model.bin", "tokenizer.json"}


def test_static_has_a_vector_for_each_token(tmp_path):
    encoder = load(save_tiny(tmp_path / "m", "bert"), pooling="mean")
    exported = diffcse.export(encoder, tmp_path / "out", "static")
    assert exported.least is None
    ours = exported.encode(["the cat", "cat the", "moon"])
    np.testing.assert_allclose(ours[0], ours[1], atol=1e-3)
    assert ours[0] @ ours[2] < 0.99
    library = SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(["the cat", "moon"])
    np.testing.assert_allclose(library, ours[[0, 2]], atol=2e-3)
    assert StaticModel.from_pretrained(tmp_path / "out").dim == ours.shape[1]


def test_the_command_prints_parity_size_and_speed(capsys, tmp_path):
    save_tiny(tmp_path / "m", "bert")
    (tmp_path / "a.csv").write_text("title\n" + "\n".join(SENTENCES[:30]) + "\n")
    options = ("--to", "sentence-transformers", "--pooling", "mean", "--text", tmp_path / "a.csv", "--column", "title")
    code, out, err = command(capsys, "export", tmp_path / "m", "--output", tmp_path / "out", *options)
    assert (code, err) == (0, "")
    cells = next(line for line in out.splitlines() if line.startswith("│ sentence-transformers")).split("│")
    assert (float(cells[4]), float(cells[5])) == (1, 1)
    assert "on 30 sentences" in out
    assert load(tmp_path / "out").pooling == "mean"


def test_another_graph_is_refused_and_leaves_nothing(full, tmp_path, monkeypatch):
    write = module.write_onnx
    monkeypatch.setattr(module, "write_onnx", lambda encoder, file: write(replace(encoder, pooling="cls"), file))
    with pytest.raises(InputError, match="least cosine"):
        diffcse.export(full, tmp_path / "out", texts=TEXTS)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_named(full, tmp_path, monkeypatch):
    class Fixed(type(full.model)):
        def forward(self, input_ids, **options):
            return super().forward(input_ids=input_ids[: len(input_ids)], **options)

    with pytest.raises(InputError, match="to = 'tensorflow'"):
        diffcse.export(full, tmp_path / "out", "tensorflow")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").touch()
    with pytest.raises(InputError, match="not empty"):
        diffcse.export(full, tmp_path / "out")
    fixed = Fixed(full.model.config, add_pooling_layer=False).eval()
    with pytest.raises(InputError, match="Fixed"):
        diffcse.export(replace(full, model=fixed), tmp_path / "fixed", texts=TEXTS)
    monkeypatch.setattr("diffcse.encoder.graph.find_spec", lambda name: None if name == "onnxscript" else 1)
    with pytest.raises(InputError, match=r"diffcse\[onnx\]"):
        diffcse.export(full, tmp_path / "new")


def test_mistakes_on_the_command_line(capsys, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for arguments, says in (
        (("mini", "--output", tmp_path / "out"), "--to"),
        (("mini", "--to", "onnx"), "--output"),
        (("mini", "--to", "tflite", "--output", tmp_path / "out"), "tflite"),
        (("mini", "--to", "onnx", "--output", tmp_path / "full"), "not empty"),
        (("./no", "--to", "onnx", "--output", tmp_path / "out"), "no such folder"),
        (("mini", "--to", "onnx", "--output", tmp_path / "out", "--text", tmp_path / "no.txt"), "no.txt"),
        (("mini", "--to", "onnx", "--output", tmp_path / "out", "--column", "a"), "--column"),
    ):
        code, _, err = command(capsys, "export", *arguments)
        assert (code, says in err, err.count("\n")) == (2, True, 1), err


def test_agreement_by_hand():
    wanted, rows = np.array([[1.0, 0], [0, 2]]), np.array([[3.0, 4], [0, 1]])
    assert agreement(wanted, rows) == (0.6, 0.8)
    assert agreement(wanted, np.full((2, 2), np.nan)) == (-1, -1)
    assert agreement(wanted, rows[:, :1]) == (-1, -1)


def test_comparison_texts(monkeypatch):
    docstrings = tuple(Docstring("m", f"f{i}", (f"Sentence {i}.", "Another.")) for i in range(600))
    monkeypatch.setattr(module, "read_stdlib", lambda: StdlibCorpus(docstrings, "3"))
    sample = comparison_texts(None)
    assert (len(set(sample)), sum("Another" in text for text in sample)) == (500, 100)
    assert comparison_texts(None) == sample
    assert comparison_texts([" ", "a", ""]) == ["a"]
    with pytest.raises(InputError, match="texts"):
        comparison_texts([" "])
