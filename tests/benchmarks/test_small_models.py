"""The models behind the tables, at tiny settings: their shapes, their vocabulary, and that nothing is made twice."""

import json

import pytest

from benchmarks import small_models
from diffcse.encoder.load import load
from diffcse.evaluation.sts import read_pairs, score_sts
from diffcse.method.loading import MINI, check_same_vocabulary, load_generator, load_tokenizer
from tests.models import SENTENCES, save_tiny


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    """Two steps on two hundred short sentences, in the vocabulary of a tiny encoder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    save_tiny(tmp_path / "encoder", "bert", masked_lm=False)
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{one} and {other}\n" for one in SENTENCES[:20] for other in SENTENCES[20:30]))
    pace = ["--steps", "2", "--batch-tokens", "128", "--held-out", "20"]
    return [str(text), "--tokenizer", str(tmp_path / "encoder"), "--output", str(tmp_path / "models"), *pace]


def table(capsys):
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_models_have_their_shapes_and_the_bundled_vocabulary(tmp_path, capsys, arguments):
    small_models.main([*arguments, "--tokenizer", "mini"])
    rows = table(capsys)
    assert [(row["model"], row["layers"], row["width"], row["steps"]) for row in rows] == [
        ("base", "2", "384", "2"),
        ("distil", "1", "384", "2"),
        ("medium", "4", "256", "2"),
        ("small", "2", "128", "2"),
        ("mini", "1", "128", "2"),
        ("tiny", "1", "64", "2"),
        ("causal", "2", "256", "2"),
    ]
    for row in rows:
        folder = tmp_path / "models" / row["model"]
        record = json.loads((folder / "run.json").read_text())
        assert float(row["held-out loss"]) == pytest.approx(record["scores"]["held_out_loss"], abs=6e-4)
        assert float(row["by frequency"]) == pytest.approx(record["scores"]["unigram_loss"], abs=6e-4)
        assert record["config"]["start_embeddings"] == "ppmi_svd"
        assert record["config"]["next_weight"] == 0
        check_same_vocabulary(load_tokenizer(MINI), load_tokenizer(folder / "model"), "encoder", "generator")
    tiny = load_generator(tmp_path / "models" / "tiny" / "model")
    assert rows[5]["weights"] == f"{sum(p.numel() for p in tiny.parameters()):,}"
    assert load_generator(tmp_path / "models" / "tiny" / "model").config.num_attention_heads == 2
    causal = json.loads((tmp_path / "models" / "causal" / "model" / "config.json").read_text())
    assert causal["architectures"] == ["GPT2LMHeadModel"]


def test_finished_ones_are_not_made_again_and_killed_ones_go_on(tmp_path, capsys, arguments, monkeypatch):
    chosen = [*arguments, "--models", "tiny", "small"]
    original = small_models.pretrain

    def killed(config, *args, **kwargs):
        if config.name == "small":
            kwargs["report"] = _stop_at_the_start
        return original(config, *args, **kwargs)

    monkeypatch.setattr(small_models, "pretrain", killed)
    with pytest.raises(KeyboardInterrupt):
        small_models.main(chosen)
    (first,) = table(capsys)
    made = (tmp_path / "models" / "tiny" / "model" / "model.safetensors").stat().st_mtime_ns
    monkeypatch.setattr(small_models, "pretrain", original)
    small_models.main(chosen)
    again, small = table(capsys)
    assert again == first
    assert (small["model"], small["steps"]) == ("small", "2")
    assert (tmp_path / "models" / "tiny" / "model" / "model.safetensors").stat().st_mtime_ns == made


def _stop_at_the_start(event, facts):
    if event == "start":
        raise KeyboardInterrupt


def test_dev_scores_the_untrained_embeddings(tmp_path, capsys, arguments):
    pairs = tmp_path / "dev.tsv"
    both = zip(SENTENCES[:17], SENTENCES[3:20], strict=True)
    pairs.write_text("".join(f"{i % 5}\t{one}\t{other}\n" for i, (one, other) in enumerate(both)))
    small_models.main([*arguments, "--tokenizer", "mini", "--models", "tiny", "causal", "--dev", str(pairs)])
    tiny, causal = table(capsys)
    encoder = load(tmp_path / "models" / "tiny" / "model", pooling="cls")
    expected = score_sts(encoder, read_pairs(pairs)).all.spearman
    assert float(tiny["[CLS]"]) == pytest.approx(expected, abs=6e-3)
    assert tiny["mean"] != tiny["[CLS]"]
    assert (causal["[CLS]"], causal["mean"]) == ("–", "–")
