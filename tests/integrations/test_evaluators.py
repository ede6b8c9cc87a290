"""The evaluator in a stock trainer: it logs our scores and selects by them."""

import pytest
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from diffcse.encoder.load import load
from diffcse.encoder.save import save
from diffcse.errors import InputError
from diffcse.evaluation.sts import read_pairs, score_sts
from diffcse.integrations.evaluators import StsEvaluator
from tests.evaluation import folders
from tests.models import SENTENCES, save_tiny


@pytest.fixture
def model(tmp_path):
    save(load(save_tiny(tmp_path / "tiny", "bert"), pooling="mean"), tmp_path / "model", "# A model\n")
    return SentenceTransformer(str(tmp_path / "model"), device="cpu")


def test_scores_are_ours_as_fractions(model, tmp_path):
    paths = [folders.tsv(tmp_path / "sts", name, n=24, seed=seed) for seed, name in enumerate(("a", "b"))]
    evaluator = StsEvaluator(tmp_path / "sts")
    found = evaluator(model)
    encoder = load(tmp_path / "model")
    expected = {path.stem: score_sts(encoder, read_pairs(path)).all for path in paths}
    for name, score in expected.items():
        assert found[f"sts_{name}_spearman"] == pytest.approx(score.spearman / 100, abs=1e-3)
        assert found[f"sts_{name}_pearson"] == pytest.approx(score.pearson / 100, abs=1e-3)
    assert found[evaluator.primary_metric] == pytest.approx((found["sts_a_spearman"] + found["sts_b_spearman"]) / 2)


def test_dev_splits_are_the_choice_of_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("diffcse.evaluation.sts.PAIRS_IN", {"STSB-dev": 24, "STSB-test": 24})
    for name in ("STSB-dev", "STSB-test"):
        folders.tsv(tmp_path, name, n=24)
    assert list(StsEvaluator(tmp_path).sets) == ["STSB-dev"]
    assert list(StsEvaluator(tmp_path, only=["STSB-test"]).sets) == ["STSB-test"]
    assert list(StsEvaluator(read_pairs(tmp_path / "STSB-test.tsv")).sets) == ["STSB-test"]
    with pytest.raises(InputError, match="no set STS12; there are: STSB-dev, STSB-test"):
        StsEvaluator(tmp_path, only=["STS12"])


def test_a_stock_trainer_selects_by_it(model, tmp_path):
    evaluator = StsEvaluator(read_pairs(folders.tsv(tmp_path, "pets", n=24)), name="our")
    args = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path / "out"),
        max_steps=4,
        per_device_train_batch_size=8,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        learning_rate=1e-2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_" + evaluator.primary_metric,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    data = Dataset.from_dict({"anchor": SENTENCES[:40], "positive": SENTENCES[40:]})
    trainer = SentenceTransformerTrainer(
        model, args, train_dataset=data, loss=MultipleNegativesRankingLoss(model), evaluator=evaluator
    )
    trainer.train()
    scores = [
        entry["eval_our_mean_spearman"] for entry in trainer.state.log_history if "eval_our_mean_spearman" in entry
    ]
    assert len(scores) == 2
    assert trainer.state.best_metric == pytest.approx(max(scores))
    assert evaluator(model)["our_mean_spearman"] == pytest.approx(max(scores), abs=1e-4)
