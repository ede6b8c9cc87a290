"""`diffcse compare` as a user meets it: by runs, with data and without, and by JSON files."""

import json
import random
import re
import shutil
from collections import Counter

import pytest

from diffcse.encoder.load import load
from diffcse.evaluation.sts import read_pairs, score_sts
from tests.cli.runs import command, make_run
from tests.evaluation import folders
from tests.mutations import json_mutations


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
    assert "62.50 (62.00, 63.00)" in out
    assert "| " not in re.sub("│", "", out), "a terminal gets no Markdown"
    assert "DiffCSE against SimCSE on pets: +1.00 points, no verdict: fewer than four seeds" in out
    assert (tmp_path / "c.md").read_text().startswith("# DiffCSE against SimCSE\n")
    found = json.loads((tmp_path / "c.json").read_text())
    assert (found["baseline"], found["methods"]) == ("SimCSE", ["SimCSE", "DiffCSE"])
    best, last = (found["checkpoints"][which]["effects"][0]["sets"]["pets"] for which in ("best", "last"))
    assert (best["difference"], best["seeds"], best["error_pairs"]) == (1, 2, None)
    assert (best["low"], best["verdict"], last["difference"]) == (None, None, 0)


def test_four_seeds_have_a_verdict(capsys, tmp_path):
    runs = [
        make_run(tmp_path / f"{kind}-{seed}", seed, difference=kind, best=60 + gain + seed, weights=seed)
        for kind, gain in (("none", 0), ("rtd", 1))
        for seed in range(4)
    ]
    record = json.loads((runs[-1] / "run.json").read_text())
    record["scores"]["dev"]["best"] += 0.1
    (runs[-1] / "run.json").write_text(json.dumps(record))
    code, out, err = command(capsys, "compare", *runs)
    assert code == 0, err
    assert "DiffCSE is clearly better than SimCSE on pets (+1.02 points)" in out
    assert re.search(r"\+1\.02 ▲ │ \+0\.95 to \+1\.10", out)


def test_with_data_every_encoder_is_scored_pair_by_pair(capsys, tmp_path, runs):
    pytest.importorskip("jinja2")
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
        assert (effect["error_seeds"], effect["verdict"]) == (None, None)
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
    assert "ours against plain on pets" in out
    assert "which do not say how the weights were chosen" in out


def scores(path, *, run=None, fingerprint="0" * 64, name="e (mean)", **tasks):
    """What `evaluate --json` writes, as far as compare reads it: set -> score, or the task itself."""
    given = {
        key.replace("_", "/"): {
            "group": key.partition("_")[0], "name": key.partition("_")[2], "metric": "spearman", "split": "test",
            "data": {"sha256": "ab"}, **(task if isinstance(task, dict) else {"value": task}),
        }
        for key, task in tasks.items()
    }  # fmt: skip
    encoder = {"name": name, "kind": "model", "fingerprint": fingerprint, "pooling": "mean"}
    result = {"encoder": encoder | ({"run": run} if run else {}), "tasks": given}
    path.write_text(json.dumps({"schema": "diffcse-evaluation/1", "results": [result]}))
    return path


def test_a_json_file_knows_its_method_and_not_only_its_recipe(capsys, tmp_path, runs):
    folders.tsv(tmp_path / "data", "pets", n=30)
    files = []
    for run in runs:
        files.append(tmp_path / f"{run.name}.json")
        assert command(capsys, "evaluate", run, "--data", tmp_path / "data", "--json", files[-1])[0] == 0
    code, _, err = command(capsys, "compare", *files, "--json", tmp_path / "c.json")
    assert code == 0, err
    found = json.loads((tmp_path / "c.json").read_text())
    assert [source["seed"] for source in found["sources"]] == [1, 2, 1, 2]
    plain, _, ours, _ = (source["method"] for source in found["sources"])
    assert found["methods"] == [plain, ours], "one recipe changed by an option is another method"
    assert (plain, ours) == ("mini_cpu", f"mini_cpu ({files[2]})")


def test_encoders_of_no_run_are_one_method_only_where_they_are_one_encoder(capsys, tmp_path):
    files = [scores(tmp_path / f"{i}.json", sts_pets=60.0 - i, fingerprint=f"{i}" * 64) for i in range(2)]
    code, out, err = command(capsys, "compare", *files)
    assert code == 0, err
    assert f"e (mean) ({files[1]}) against e (mean) on pets: -1.00 points, no verdict" in out


def test_runs_on_other_texts_are_other_methods(capsys, tmp_path):
    runs = [make_run(tmp_path / f"r{seed}", seed) for seed in (1, 2)]
    record = json.loads((runs[1] / "run.json").read_text())
    record["data"]["sha256"] = "cd"
    (runs[1] / "run.json").write_text(json.dumps(record))
    code, out, err = command(capsys, "compare", *runs)
    assert code == 0, err
    assert f"DiffCSE ({runs[1]}) against DiffCSE " in out


def test_a_name_given_takes_in_no_other_run(capsys, tmp_path):
    runs = [make_run(tmp_path / f"r{seed}", seed, difference="none") for seed in (1, 2)]
    code, out, _ = command(capsys, "compare", f"SimCSE={runs[0]}", runs[1])
    assert code == 0
    assert f"SimCSE ({runs[1]}) against SimCSE " in out


def test_scores_that_are_no_score_of_one_thing_are_not_compared(capsys, tmp_path):
    a = scores(tmp_path / "a.json", sts_pets=60.0, transfer_MR={"value": 80.0, "probe": "logistic"})
    other = scores(tmp_path / "b.json", sts_pets={"value": 61.0, "data": {"sha256": "cd"}})
    code, _, err = command(capsys, "compare", f"a={a}", f"b={other}")
    assert (code, f"pets: {a} and {other} measured it on other data" in err) == (2, True)
    dev = scores(tmp_path / "c.json", sts_pets=61.0, transfer_MR={"value": 82.0, "probe": "adam-fast", "split": "dev"})
    code, _, err = command(capsys, "compare", f"a={a}", f"c={dev}")
    assert (code, "transfer/MR" in err, "in another way" in err) == (2, True, True)
    code, out, _ = command(capsys, "compare", f"a={a}", f"c={dev}", "--sets", "pets")
    assert (code, "c against a on pets: +1.00 points" in out) == (0, True)
    first, second = (make_run(tmp_path / f"r{seed}", seed, rtd_weight=seed) for seed in (1, 2))
    for run, sha in ((first, "english"), (second, "german")):
        record = json.loads((run / "run.json").read_text())
        record["data"]["dev_sha256"] = sha
        (run / "run.json").write_text(json.dumps(record))
    code, _, err = command(capsys, "compare", first, second)
    assert (code, "measured it on other data" in err) == (2, True)


def test_unlike_scores_have_no_average_together(capsys, tmp_path):
    values = {"sts_a": 60.0, "sts_b": 70.0, "transfer_MR": 80.0, "transfer_CR": 82.0}
    a = scores(tmp_path / "a.json", **values)
    b = scores(tmp_path / "b.json", **{key: value + 1 for key, value in values.items()})
    code, out, err = command(capsys, "compare", f"a={a}", f"b={b}", "--json", tmp_path / "c.json")
    assert code == 0, err
    (part,) = json.loads((tmp_path / "c.json").read_text())["checkpoints"].values()
    assert part["headlines"] == ["average STS", "average transfer"]
    assert part["methods"][0]["scores"]["average STS"]["mean"] == 65
    assert "b against a on the average of the transfer sets: +1.00 points" in out


def test_a_set_that_chose_is_named_whatever_its_file(capsys, tmp_path, runs):
    folders.tsv(tmp_path / "data", "pets", n=30)
    folders.tsv(tmp_path / "data", "birds", n=30, seed=1)
    note = "note     pets chose the best steps"
    assert note in command(capsys, "compare", *runs)[1]
    out = command(capsys, "compare", *runs, "--data", tmp_path / "data")[1]
    assert note in out
    assert "birds chose" not in out


def test_checkpoints_that_share_no_set_are_left_out(capsys, tmp_path):
    runs = [make_run(tmp_path / f"r{i}", 1, rtd_weight=i) for i in (1, 2)]
    extra = make_run(tmp_path / "r3", 1, rtd_weight=3)
    record = json.loads((extra / "run.json").read_text())
    record["scores"]["dev"] |= {"file": "other.tsv", "selects": False}
    (extra / "run.json").write_text(json.dumps(record))
    code, out, err = command(capsys, "compare", *runs, extra)
    assert code == 0, err
    assert "no comparison of the last step: its runs share no set" in out


def test_a_run_without_dev_set_has_a_last_step_alone(capsys, tmp_path):
    runs = [make_run(tmp_path / f"r{seed}", seed, dev=False) for seed in (1, 2)]
    folders.tsv(tmp_path / "data", "pets", n=30)
    code, out, err = command(capsys, "compare", f"a={runs[0]}", f"b={runs[1]}", "--data", tmp_path / "data")
    assert code == 0, err
    assert "Best step" not in out
    assert "Intervals cover other sentence pairs alone" in " ".join(out.split())
    code, _, err = command(capsys, "compare", *runs)
    assert (code, "recorded no dev score: give --data DIR" in err) == (2, True)


def test_names_come_from_what_differs(capsys, tmp_path):
    runs = [make_run(tmp_path / f"w{weight}", 1, rtd_weight=weight) for weight in (0.005, 0.05)]
    code, out, _ = command(capsys, "compare", *runs)
    assert code == 0
    assert "DiffCSE, rtd_weight 0.05 against DiffCSE, rtd_weight 0.005 on pets" in out
    assert "No interval: fewer than four seeds" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN"], "nothing to compare"),
        (["TEXT.jsonl", "--recipes", "adapt,min_deletion", "--output", "EMPTY"], "--recipes min_deletion: no recipe"),
        (["RUN", "EMPTY"], "no run: it has no run.json"),
        (["RUN", "TEXT"], "not JSON"),
        (["RUN", "none.json"], "none.json: cannot be read"),
        (["a=RUN", "a=RUN"], "a: two runs with the same seed"),
        (["RUN", "b=RUN", "--baseline", "c"], "no run of the baseline 'c'"),
        (["RUN", "b=RUN", "--sets", "STS12"], "its dev score is on pets; give --data DIR"),
        (["RUN", "b=RUN", "--sets", "pets", "--sets", "STS12"], "its dev score is on pets; give --data DIR"),
        (["RUN", "b=RUN", "--resamples", "5"], "at least 100"),
        (["RUN", "b=SCORES"], "holds scores, "),
        (["SCORES", "b=SCORES", "--data", "EMPTY"], "--data scores the encoders of run folders"),
        (["SCORES", "b=SCORES", "--sets", "pets", "--sets", "STS99"], "has no STS99; it has: pets"),
        (["AVERAGE", "b=AVERAGE"], "a set is called average"),
    ],
)
def test_mistakes_are_one_line(capsys, tmp_path, arguments, message):
    run = make_run(tmp_path / "run", 1)
    (tmp_path / "empty").mkdir()
    folders.write(tmp_path / "text.json", "nothing")
    folders.write(tmp_path / "text.jsonl", "")
    names = {"RUN": str(run), "EMPTY": str(tmp_path / "empty"), "TEXT": str(tmp_path / "text.json")}
    names["TEXT.jsonl"] = str(tmp_path / "text.jsonl")
    names["SCORES"] = str(scores(tmp_path / "scores.json", sts_pets=60.0))
    names["AVERAGE"] = str(scores(tmp_path / "average.json", sts_average=60.0))
    filled = ["=".join(names.get(part, part) for part in a.split("=")) for a in arguments]
    code, _, err = command(capsys, "compare", *filled)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_options_without_effect_are_one_warning(capsys, runs):
    code, out, _ = command(capsys, "compare", *runs, "--resamples", "500", "--no-cache")
    assert code == 0
    assert [line for line in out.splitlines() if "--" in line] == [
        "note     --resamples, --no-cache: no effect without --data"
    ]


def test_damaged_files_are_one_line_that_names_them(capsys, tmp_path):
    """Both kinds of input: run.json, and what `evaluate --json` writes."""
    rng = random.Random(24)
    facts = {"recipe": "r", "method_sha256": "m", "seed": 1, "train_sha256": None}
    good = scores(tmp_path / "good.json", sts_pets=60.0, run=facts | {"seed": 2}, name="f")
    bad = scores(tmp_path / "bad.json", sts_pets=61.0, transfer_MR={"value": 70, "probe": "adam"}, run=facts)
    run, other = make_run(tmp_path / "run", 1), make_run(tmp_path / "other", 2)
    shutil.rmtree(run / "model")  # scores of run.json are compared, nothing is loaded
    codes = Counter()
    for file, arguments in ((bad, (bad, good)), (run / "run.json", (run, other))):
        value = json.loads(file.read_text())
        for text in json_mutations(value, rng, 80):
            file.write_text(text)
            code, _, err = command(capsys, "compare", *arguments)
            codes[code] += 1
            assert code in (0, 2), text
            assert code == 0 or err.startswith("error: "), text
            assert err.count("\n") <= 3
    assert codes[2] > 60
