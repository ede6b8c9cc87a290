"""`diffcse compare` as a user meets it: by runs, with data and without, and by JSON files."""

import json

import pytest

from diffcse.cli.compare import _kind
from diffcse.encoder.load import load
from diffcse.evaluation.sts import read_pairs, score_sts
from tests.cli.runs import command, make_run
from tests.evaluation import folders


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def runs(tmp_path):
    made = []
    for kind, shift in (("none", 0.0), ("rtd", 1.0)):
        for seed in (1, 2):
            folder = tmp_path / "runs" / f"{kind}-{seed}"
            made.append(make_run(folder, seed, difference=kind, best=60 + shift + seed, last=59 + seed, weights=seed))
    return made


def test_dev_scores_of_runs(capsys, tmp_path, runs):
    code, out, err = command(capsys, "compare", *runs, "--markdown", tmp_path / "c.md", "--json", tmp_path / "c.json")
    assert code == 0, err
    assert "# DiffCSE against SimCSE" in out
    assert "62.50 ± 0.71" in out
    assert (tmp_path / "c.md").read_text() in out
    found = json.loads((tmp_path / "c.json").read_text())
    assert (found["baseline"], found["methods"]) == ("SimCSE", ["SimCSE", "DiffCSE"])
    best, last = (found["checkpoints"][which]["effects"][0]["sets"]["pets"] for which in ("best", "last"))
    assert (best["difference"], best["seeds"], best["error_pairs"]) == (1, 2, None)
    assert (last["difference"], last["probability"]) == (0, 0.5)


def test_with_data_every_encoder_is_scored_pair_by_pair(capsys, tmp_path, runs):
    pytest.importorskip("plotly")
    path = folders.tsv(tmp_path / "data", "pets", n=30)
    folders.tsv(tmp_path / "data", "birds", n=30, seed=1)
    options = ("--data", tmp_path / "data", "--baseline", "DiffCSE", "--resamples", 200)
    outputs = ("--json", tmp_path / "c.json", "--html", tmp_path / "c.html")
    code, _, err = command(capsys, "compare", *runs, *options, *outputs)
    assert code == 0, err
    found = json.loads((tmp_path / "c.json").read_text())
    assert list(found["checkpoints"]) == ["best", "last"]
    for which, folder in (("best", "model"), ("last", "last")):
        part = found["checkpoints"][which]
        assert part["sets"] == ["birds", "pets", "average"]
        values = part["methods"][0]["scores"]["pets"]["values"]
        expected = [score_sts(load(run / folder), read_pairs(path)).all.spearman for run in runs[:2]]
        assert values == pytest.approx(expected, abs=1e-6)
        effect = part["effects"][0]["sets"]["average"]
        assert effect["error_pairs"] is not None
        assert effect["error_seeds"] is not None
    page = (tmp_path / "c.html").read_text()
    assert "SimCSE against DiffCSE" in page
    before = (tmp_path / "c.json").read_bytes()
    assert command(capsys, "compare", *runs, *options, "--json", tmp_path / "c.json")[0] == 0
    assert (tmp_path / "c.json").read_bytes() == before


def test_json_files_and_names(capsys, tmp_path, runs):
    folders.tsv(tmp_path / "data", "pets", n=30)
    files = []
    for run in runs:
        files.append(tmp_path / f"{run.name}.json")
        assert command(capsys, "evaluate", run, "--data", tmp_path / "data", "--json", files[-1])[0] == 0
    named = [f"{name}={file}" for name, file in zip(("plain", "plain", "ours", "ours"), files, strict=True)]
    code, out, err = command(capsys, "compare", *named)
    assert code == 0, err
    assert "# ours against plain" in out
    assert "which do not say how the weights were chosen" in out


def test_a_run_without_dev_set_has_a_last_step_alone(capsys, tmp_path):
    runs = [make_run(tmp_path / f"r{seed}", seed, dev=False) for seed in (1, 2)]
    folders.tsv(tmp_path / "data", "pets", n=30)
    code, out, err = command(capsys, "compare", f"a={runs[0]}", f"b={runs[1]}", "--data", tmp_path / "data")
    assert code == 0, err
    assert "Best step" not in out
    assert "One seed of a method: intervals hold the luck of the sentence pairs alone" in out
    code, _, err = command(capsys, "compare", *runs)
    assert (code, "recorded no dev score: give --data DIR" in err) == (2, True)


def test_names_come_from_what_differs(capsys, tmp_path):
    runs = [make_run(tmp_path / f"w{weight}", 1, rtd_weight=weight) for weight in (0.005, 0.05)]
    code, out, _ = command(capsys, "compare", *runs)
    assert code == 0
    assert "# DiffCSE, rtd_weight 0.05 against DiffCSE, rtd_weight 0.005" in out
    assert "Where no interval stands" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN"], "nothing to compare"),
        (["RUN", "EMPTY"], "no run: it has no run.json"),
        (["RUN", "TEXT"], "not JSON"),
        (["RUN", "none.json"], "none.json: cannot be read"),
        (["a=RUN", "a=RUN"], "a: two runs with the same seed"),
        (["RUN", "b=RUN", "--baseline", "c"], "no run of the baseline 'c'"),
        (["RUN", "b=RUN", "--sets", "STS12"], "its dev score is on pets; give --data DIR"),
        (["RUN", "b=RUN", "--resamples", "5"], "at least 100"),
    ],
)
def test_mistakes_are_one_line(capsys, tmp_path, arguments, message):
    run = make_run(tmp_path / "run", 1)
    (tmp_path / "empty").mkdir()
    folders.write(tmp_path / "text.json", "nothing")
    names = {"RUN": str(run), "EMPTY": str(tmp_path / "empty"), "TEXT": str(tmp_path / "text.json")}
    filled = ["=".join(names.get(part, part) for part in a.split("=")) for a in arguments]
    code, _, err = command(capsys, "compare", *filled)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_a_method_with_edited_views_is_not_called_simcse_alone():
    plain = {"difference": "none", "positives": "dropout", "edit_role": "difference"}
    assert _kind({"method": plain}) == "SimCSE"
    assert _kind({"method": {**plain, "edit_role": "positive"}}) == "SimCSE (an edited copy as one more positive)"
    assert _kind({"method": {"difference": "rtd"}}) == "DiffCSE"
