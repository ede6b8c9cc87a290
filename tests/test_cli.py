"""What a person meets: help at once, every mistake in one clear line and exit code 2, nothing half-written."""

import dataclasses
import gzip
import os
import subprocess
import sys
import time
import tomllib
from importlib import resources

import pytest

from benchmarks.small_models import MODELS
from diffcse.cli import VERBS
from diffcse.cli.options import options_of
from diffcse.config import Method, Text, Training
from diffcse.record import read_record
from tests.cli.runs import command as run
from tests.models import SENTENCES, save_tiny


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def tiny(tmp_path):
    return save_tiny(tmp_path / "tiny", "bert")


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(SENTENCES) + "\n")
    return path


WEIGHTS = ["--recipe", "mini_cpu", "--batch-size", 8]
"""Options that train an encoder's weights on a text of a few sentences."""


def train(capsys, corpus, tmp_path, *options):
    output = tmp_path / "out"
    code, out, err = run(capsys, "train", corpus, "--output", output, *options)
    return code, out, err, output


BAD_CORPORA = {
    # name: (bytes, what the message must say)
    "empty.txt": (b"", "empty"),
    "blank.txt": (b"\n \n\n", "blank"),
    "binary.txt": (bytes(range(256)) * 50, "binary"),
    "one.txt": (b"Only one sentence.\n", "1 distinct"),
    "same.txt": (b"The same.\n" * 50, "1 distinct"),
    "long.txt": (b"a good line\n" + b"word " * 2_000_000, "line 2"),
    "latin1.txt": (b"one line\ncaf\xe9 line\n", "line 2"),
    "table.csv": (b"a,b\n1,2\n", "csv"),
    "torn.txt.gz": (gzip.compress(b"a line\n" * 1000)[:-20], "gz"),
}


@pytest.mark.parametrize("name", BAD_CORPORA)
def test_bad_corpus(capsys, tmp_path, name):
    data, says = BAD_CORPORA[name]
    path = tmp_path / name
    path.write_bytes(data)
    began = time.monotonic()
    code, _, err, output = train(capsys, path, tmp_path)
    assert code == 2
    assert err.startswith("error: ")
    assert name in err
    assert says.lower() in err.lower()
    assert "Traceback" not in err
    assert not output.exists()
    assert time.monotonic() - began < 60


def test_missing_corpus_and_options(capsys, tmp_path, text):
    assert train(capsys, tmp_path / "nowhere.txt", tmp_path)[0] == 2
    code, _, err = run(capsys, "train", text)
    assert (code, "--output" in err) == (2, True)
    code, _, err = run(capsys, "train", "--output", tmp_path / "o")
    assert (code, "no corpus" in err) == (2, True)


@pytest.mark.parametrize("data", [b"\xef\xbb\xbf", b""], ids=["bom", "plain"])
def test_odd_but_good_text_trains(capsys, tmp_path, tiny, data):
    """A byte-order mark, mixed line ends and blank lines are not the user's fault."""
    path = tmp_path / "text.txt"
    ends = ["\n", "\r\n", "\n\n"]
    path.write_bytes(data + "".join(s + ends[i % 3] for i, s in enumerate(SENTENCES)).encode())
    code, out, err, output = train(capsys, path, tmp_path, *WEIGHTS, "--model", tiny, "--max-steps", 2)
    assert code == 0, err
    assert f"{len(SENTENCES)} sentences" in out
    assert (output / "model" / "model.safetensors").is_file()


def test_recipe_mistakes(capsys, tmp_path, text):
    recipe = tmp_path / "mine.toml"
    recipe.write_text("[training]\nbatch_size = 8\nlerning_rate = 1e-4\n")
    code, _, err, output = train(capsys, text, tmp_path, "--recipe", recipe)
    assert code == 2
    assert all(part in err for part in ("mine.toml", "training.lerning_rate", "training.learning_rate?"))
    assert not output.exists()
    code, _, err, _ = train(capsys, text, tmp_path, "--recipe", "mini_cup")
    assert (code, "Did you mean 'mini_cpu'?" in err) == (2, True)
    code, _, err, _ = train(capsys, text, tmp_path, "--preset", "refrence")
    assert (code, "'reference'" in err) == (2, True)


def test_option_mistakes(capsys, tmp_path, text):
    for options in (["--mask-ratio", "3"], ["--mask-ration", "0.3"], ["--pooling", "median"], ["--batch-size", "x"]):
        code, out, err, output = train(capsys, text, tmp_path, *options)
        assert code == 2, options
        assert options[0].lstrip("-").replace("-", "_")[:9] in (out + err).replace("-", "_"), options
        assert "Traceback" not in out + err
        assert not output.exists()
    code, _, err = run(capsys, "trian")
    assert (code, "Did you mean train?" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["train", "TEXT", "--output", "out", "--mask-ration", "0.2"], ["--mask-ration", "--mask-ratio?"]),
        (["train", "TEXT", "--output", "out", "--pooling", "meen"], ["--pooling meen", "mean?"]),
        (["train", "TEXT", "--output", "out", "--batch-size", "many"], ["--batch-size many"]),
        (["train", "TEXT", "--output", "out", "--batch-size"], ["--batch-size"]),
        (["train", "TEXT", "--output", "out", "--mask-ratio", "3"], ["method.mask_ratio = 3.0"]),
        (["train", "TEXT", "--output", "out", "--set", "method.temperature=-1"], ["method.temperature = -1.0"]),
        (["train", "TEXT", "--output", "out", "--no-contrast", "--difference", "none"], ["method.contrast"]),
        (["train", "TEXT", "--edits", "mlm", "swop"], ["method.edits", "swop"]),
        (["pretrain", "TEXT", "--heads=7"], ["width = 384", "heads = 7"]),
        (["train", "TEXT", "--set", "method.mask_ration=0.2"], ["method.mask_ration", "method.mask_ratio?"]),
        (["train", "TEXT", "--set", "mask_ratio=0.2"], ["mask_ratio", "method.mask_ratio?"]),
        (["train", "TEXT", "--set", "method.mask_ratio"], ["method.mask_ratio"]),
        (["train", "TEXT", "--set", "method.contrast=perhaps"], ["method.contrast=perhaps"]),
        (["train", "nowhere.txt", "--output", "out"], ["nowhere.txt"]),
        (["train", "TEXT", "--output", "out", "--model", "./nowhere"], ["--model ./nowhere"]),
        (["train", "TEXT", "--output", "out", "--dev", "nowhere.tsv"], ["--dev nowhere.tsv"]),
        (["evaluate", "./nowhere", "--data", "pairs"], ["./nowhere"]),
        (["evaluate", "mini", "--data", "nowhere"], ["--data nowhere"]),
        (["embed", "./nowhere", "TEXT", "--output", "x.npy"], ["./nowhere"]),
        (["pretrain", "TEXT", "--set", "layerz=3"], ["layerz", "layers?"]),
        (["train", "TEXT", "--output", "."], ["--output .", "--resume"]),
        (["quickstart", "--output", "."], ["--output .", "--resume"]),
        (["ablate", "--sedes", "5"], ["--sedes", "--seeds?"]),
    ],
)
def test_mistakes_are_one_line_before_torch_is_loaded(tmp_path, text, arguments, names):
    program = (
        "import sys; from diffcse.cli import main\n"
        "try:\n    main(sys.argv[1:])\nfinally:\n    assert 'torch' not in sys.modules"
    )
    words = [str(text) if word == "TEXT" else word for word in arguments]
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert all(name in line for name in names), line
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def options_on(page):
    return [line.split()[0] for line in page.splitlines() if line.startswith("  --")]


@pytest.mark.parametrize("verb", VERBS)
def test_help_is_one_screen(capsys, verb):
    code, page, _ = run(capsys, verb, "--help")
    lines = page.splitlines()
    assert code == 0
    assert len(lines) <= 45
    assert max(map(len, lines)) <= 80
    assert len(options_on(page)) <= 17
    hidden = {option.name for option in options_of(VERBS[verb]) if not option.positional} - {*options_on(page)}
    assert ("--help-all" in options_on(page)) == bool(hidden)
    assert hidden <= {*options_on(run(capsys, verb, "--help-all")[1])}


def test_the_page_of_train_has_fifteen_options_and_help_all_has_every_one(capsys):
    page, whole = run(capsys, "train", "--help")[1], run(capsys, "train", "--help-all")[1]
    assert len(options_on(page)) <= 15
    assert {"--output", "--model", "--recipe", "--column", "--resume", "--set"} <= {*options_on(page)}
    fields = [field.name for section in (Method, Text, Training) for field in dataclasses.fields(section)]
    assert {f"--{name.replace('_', '-')}" for name in fields} <= {*options_on(whole)}
    assert [line for line in whole.splitlines() if line in ("method:", "text:", "training:")] == [
        "method:",
        "text:",
        "training:",
    ]
    assert all(option.help for option in options_of(VERBS["train"]))
    assert max(map(len, whole.splitlines())) <= 80
    assert "--batch-size N" in run(capsys, "train", "--recipe", "diffcse_supervised", "--help")[1]


def test_set_is_the_option(capsys):
    recipe = ["--recipe", "mini_cpu", "--print-config"]
    options = ["--mask-ratio", "0.2", "--edits", "mlm", "delete", "--no-contrast", "--max-steps", "7"]
    settings = ["method.mask_ratio=0.2", 'method.edits=["mlm", "delete"]', "method.contrast = false"]
    sets = [word for setting in (*settings, "training.max_steps=7") for word in ("--set", setting)]
    expected = run(capsys, "train", *recipe, *options)
    assert expected[0] == 0
    assert run(capsys, "train", *recipe, *sets) == expected
    assert run(capsys, "train", *sets, "text.txt", *recipe) == expected
    assert 'column = "body"' in run(capsys, "train", "--print-config", "--set=text.column=body")[1]
    assert "layers = 3" in run(capsys, "pretrain", "--print-config", "--set", "layers=3")[1]
    # Passes over the text that are asked for win over the recipe's steps, however they are asked for.
    assert "max_steps =" not in run(capsys, "train", *recipe, "--set", "training.epochs=3")[1]


def test_print_config_is_a_recipe_and_overrides_win(capsys, tmp_path):
    code, out, _ = run(
        capsys, "train", "--preset", "reference", "--sampling", "sample", "--print-config", "--seed", "7"
    )
    assert code == 0
    (tmp_path / "again.toml").write_text(out)
    code, again, _ = run(capsys, "train", "--recipe", tmp_path / "again.toml", "--print-config")
    assert again == out
    assert 'name = "mini_cpu"' in out
    assert 'learn = "weights"' in out
    assert 'sampling = "sample"' in out
    assert 'edit_scope = "all"' in out
    assert "seed = 7" in out


def test_passes_asked_for_win_over_a_recipes_steps(capsys):
    recipe = ["--recipe", "mini_cpu", "--print-config"]
    assert "max_steps = 300" in run(capsys, "train", *recipe)[1]
    out = run(capsys, "train", *recipe, "--epochs", "3")[1]
    assert "max_steps =" not in out
    assert "epochs = 3.0" in out
    out = run(capsys, "train", *recipe, "--epochs", "3", "--max-steps", "7")[1]
    assert "max_steps = 7" in out


def test_a_recipe_is_printed_as_it_is_read():
    command = [sys.executable, "-m", "diffcse", "train", "--model", "模型/x", "--print-config"]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "cp1252"}, check=True)
    assert 'model = "模型/x"' in done.stdout.decode("utf-8")


def test_a_changed_recipe_claims_nothing_published(capsys):
    recipe = ["--recipe", "diffcse_bert_base_sts"]
    assert "78.49" in run(capsys, "train", *recipe, "--print-config", "--seed", "3")[1]
    out = run(capsys, "train", *recipe, "--print-config", "--mask-ratio", "0.15")[1]
    assert 'reproduces = "diffcse_bert_base_sts, changed: method.mask_ratio"' in out


def test_names_that_look_like_markup(capsys, tmp_path, tiny, text):
    output = tmp_path / "p[/red]"
    code, out, err = run(capsys, "train", text, "--output", output, *WEIGHTS, "--model", tiny, "--max-steps", 1)
    assert code == 0, err
    assert str(output) in out


def test_quickstart_mistakes(capsys, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    for options in ([], ["--resume"]):
        code, _, err = run(capsys, "quickstart", "--output", tmp_path / "full", *options)
        assert (code, "not empty" in err or "other files" in err) == (2, True), err
    code, _, err = run(capsys, "quickstart", "--output", tmp_path / "new", "--steps", "0")
    assert (code, "at least 1" in err) == (2, True)


def test_full_disk(tmp_path, tiny, text):
    """A real limit on file size, hit while the first checkpoint is written: one line, code 2, no half."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))\n"
    program = limit + "from diffcse.cli import main; main()"
    options = [*map(str, WEIGHTS), "--model", str(tiny), "--max-steps", "4", "--checkpoint-every", "2"]
    command = [sys.executable, "-c", program, "train", str(text), "--output", str(tmp_path / "out"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 2, done.stderr
    assert "ulimit -f" in done.stderr
    assert "Traceback" not in done.stderr
    left = sorted(p.name for p in (tmp_path / "out").rglob("*"))
    assert left == ["checkpoints", "log.jsonl", "recipe.toml", "run.json"], left


def test_train_then_evaluate(capsys, tmp_path, tiny, text):
    code, out, err, output = train(capsys, text, tmp_path, *WEIGHTS, "--model", tiny, "--max-steps", 4)
    assert code == 0, err
    assert "recipe" in out
    data = tmp_path / "sts"
    data.mkdir()
    rows = [f"{i % 6}\t{SENTENCES[i]}\t{SENTENCES[(3 * i + 1) % 80]}" for i in range(30)]
    (data / "mine.tsv").write_text("\n".join(rows))
    scores = tmp_path / "scores.json"
    code, out, err = run(capsys, "evaluate", output, "--data", data, "--floors", "--json", scores)
    assert code == 0, err
    import json

    from diffcse.encoder.load import load
    from diffcse.evaluation.sts import read_pairs, score_sts

    expected = score_sts(load(output), read_pairs(data / "mine.tsv"))
    results = {r["encoder"]["name"]: r["tasks"] for r in json.loads(scores.read_text())["results"]}
    assert results[f"{output} (cls)"]["sts/mine"]["value"] == pytest.approx(expected.all.spearman, rel=1e-5)
    assert f"{expected.all.spearman:.2f}" in out
    assert "TF-IDF" in out
    code, _, err = run(capsys, "evaluate", tiny, "--data", data)
    assert (code, "--pooling cls or --pooling mean" in err) == (2, True)
    (data / "mine.tsv").write_text("1\ta\tb\nx\tc\td\n")
    code, _, err = run(capsys, "evaluate", output, "--data", data)
    assert (code, "mine.tsv, line 2" in err) == (2, True)
    for missing in (["evaluate", output], ["evaluate", "--data", data]):
        assert run(capsys, *missing)[0] == 2


def test_help_loads_no_torch():
    program = "import sys; from diffcse.cli import main; main(['--help']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "quickstart" in done.stdout


def test_version_and_overview(capsys):
    assert run(capsys, "--version")[1].startswith("diffcse ")
    assert "train" in run(capsys)[1]


def test_pretrain_makes_a_start_for_train(capsys, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{one} and {other}\n" for one in SENTENCES[:30] for other in SENTENCES[30:40]))
    output = tmp_path / "made"
    shape = ["--vocabulary", 150, "--layers", 1, "--width", 16, "--heads", 2, "--intermediate", 32, "--held-out", 20]
    pace = ["--max-steps", 4, "--batch-tokens", 256, "--log-every", 2]
    start = ["--start-embeddings", "none", "--sums-weight", 0]
    code, out, err = run(capsys, "pretrain", text, "--output", output, *shape, *pace, *start)
    assert (code, err) == (0, "")
    assert "step      4/4" in out
    assert "next sentence" in out
    assert "tokens/s" in out
    assert "held out loss" in out
    (useless,) = read_record(output / "run.json").warnings
    assert [line for line in out.splitlines() if line.startswith(("note", "warning"))] == [f"warning  {useless}"]
    code, out, err, _ = train(
        capsys, text, tmp_path, *WEIGHTS, "--model", output / "model", "--max-steps", 2, "--precision", "fp32"
    )
    assert (code, err) == (0, "")
    assert "step      2/2" in out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--heads", "7"], "width = 384: must be a multiple of heads = 7"),
        (["--max-tokens", "500"], "max_tokens = 500: is above positions = 128"),
        (["--objective", "causal"], "next_weight = 0.1"),
        (["--objective", "causal", "--next-weight", "0"], "--recipe masked"),
        (
            ["--next-weight", "0"],
            "sums_weight = 10.0",
        ),
        (["--model", "mini"], "sums_weight = 10.0"),
        (["--start-embeddings", "ppmi_svd"], "sums_weight = 10.0"),
        (["--recipe", "mimi"], "Did you mean 'mini'?"),
        (["--tokenizer", "nowhere"], "nowhere"),
        (["--held-out", "60"], "--held-out 4"),
        ([], "--held-out 4"),
    ],
)
def test_pretrain_says_what_is_wrong(capsys, tmp_path, text, options, says):
    if "--held-out" not in options and options:
        options = [*options, "--held-out", "4"]
    code, _, err = run(capsys, "pretrain", text, "--output", tmp_path / "out", *options)
    assert code == 2
    assert says in " ".join(err.replace("|", " ").split())
    assert "Traceback" not in err


def test_pretrain_refuses_a_text_without_next_sentences_and_takes_it_without_them(capsys, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{one} and {other}\n\n" for one in SENTENCES[:20] for other in SENTENCES[30:40]))
    shape = ["--vocabulary", 150, "--layers", 1, "--width", 16, "--heads", 2, "--intermediate", 32, "--held-out", 20]
    options = [text, "--output", tmp_path / "out", "--max-steps", 1, "--batch-tokens", 256, *shape]
    code, _, err = run(capsys, "pretrain", *options)
    assert code == 2
    assert "fewer than two sentences of this text have a next" in " ".join(err.split())
    assert "Traceback" not in err
    code, out, err = run(capsys, "pretrain", *options, "--recipe", "masked")
    assert (code, err) == (0, "")
    assert "next sentence" not in out
    assert f"--model {tmp_path / 'out' / 'model'} --pooling mean)" in " ".join(out.split())


def test_what_the_grids_ask_for_can_be_made(capsys):
    """The commands they suggest are ones that `pretrain` takes."""
    commands = {}
    for path in resources.files("diffcse").joinpath("recipes/ablations").iterdir():
        for name, need in tomllib.loads(path.read_text()).get("needs", {}).items():
            if need["make"].startswith("diffcse pretrain "):
                commands[name] = need["make"].removeprefix("diffcse ").split(", then")[0].split()
    assert {"causal", "large", "base", "distil", "medium", "small", "mini", "tiny"} <= commands.keys()
    for name, command in commands.items():
        code, out, err = run(capsys, *command, "--print-config")
        assert (code, err) == (0, ""), name
        made = tomllib.loads(out)
        if name == "further":
            assert (made["model"], made["next_reads"]) == ("mini", "cls")
        else:
            assert (made["next_weight"], made["tokenizer"]) == (0, "MODEL"), name
        if name in MODELS:
            assert MODELS[name].items() <= made.items(), name  # benchmarks/small_models.py makes the same


def test_pretrain_print_config_is_a_recipe(capsys, tmp_path):
    code, out, _ = run(capsys, "pretrain", "--print-config", "--layers", 2, "--epochs", 3)
    assert code == 0
    path = tmp_path / "mine.toml"
    path.write_text(out)
    code, again, _ = run(capsys, "pretrain", "--print-config", "--recipe", path)
    assert (code, again) == (0, out)
    assert "layers = 2" in out
    path.write_text(out.replace("layers =", "layer ="))
    code, _, err = run(capsys, "pretrain", "--print-config", "--recipe", path)
    assert code == 2
    assert all(part in err for part in ("mine.toml", "key layer:", "layers?"))


@pytest.mark.parametrize(
    ("given", "policy"), [({}, "3000"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None"), ({"GOMP_SPINCOUNT": "5"}, "5")]
)
def test_threads_do_not_spin_unless_asked_to(given, policy):
    """Seen by torch: its OpenMP reads the environment once, when it is loaded."""
    code = (
        "import os, sys; from diffcse.cli import main; main(['--help']); assert 'torch' not in sys.modules; "
        "print(os.environ.get('GOMP_SPINCOUNT'))"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")} | given
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.split()[-1] == policy


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train", "--help"]])
def test_a_reader_that_has_enough_is_no_error(arguments):
    process = subprocess.Popen(
        [sys.executable, "-m", "diffcse", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    )
    process.stdout.close()
    _, err = process.communicate(timeout=100)
    assert (process.returncode, err) == (0, "")


def test_ctrl_c_before_there_is_a_command(capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("diffcse.cli._run", interrupt)
    code, _, err = run(capsys, "--help")
    assert (code, err) == (130, "")
