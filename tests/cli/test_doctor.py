from __future__ import annotations

import csv
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from diffcse.cli import main
from diffcse.encoder.load import load
from diffcse.encoder.save import save
from tests.models import SENTENCES, save_tiny
from tests.text.samples import plain


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_report_on_plain_text(tmp_path: Path, capsys) -> None:
    file = tmp_path / "a.txt"
    file.write_text("\n".join([*SENTENCES, SENTENCES[0], "a bell\u200b \x07 & [bold]markup[/bold] &amp; more"]))
    main(["doctor", str(file), "--json", str(tmp_path / "found.json")])
    printed = capsys.readouterr().out
    assert "81 sentences from 1 file (82 lines" in printed
    assert "length in tokens of mini" in printed
    assert "diffcse train" not in printed  # which refuses so few texts
    assert "1 of 82 sentences (1.2%) repeat an earlier one" in printed
    assert "with a control character" in printed
    assert "[bold]markup[/bold]" in printed
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["sentences"], found["duplicates"], found["unit"]) == (81, 1, "tokens")
    assert found["trouble"]["control character"] == 1
    assert [note for note in found["notes"] if "a.txt, line 82" in note]
    assert {"key", "level", "fact", "effect", "fix"} == set(found["findings"][0])


def test_an_encoding_without_bars_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(SENTENCES))
    done = subprocess.run(
        [sys.executable, "-m", "diffcse", "doctor", str(tmp_path / "a.txt"), "--recipe", "simcse_bert_base"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "cp1252"},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"length in words" in done.stdout


def test_lengths_in_the_tokens_of_a_model(tmp_path: Path, capsys) -> None:
    file = tmp_path / "a.csv"
    with file.open("w", newline="") as handle:
        csv.writer(handle).writerows([("body",), *([s] for s in SENTENCES)])
    model = save_tiny(tmp_path / "model", "bert")
    options = ["--recipe", "mini_cpu", "--max-tokens", "8"]
    main(["doctor", str(file), "--column", "body", "--model", str(model), *options])
    printed = capsys.readouterr().out
    assert "special ones included" in printed
    longer = sum(len(s.split()) + 2 > 8 for s in SENTENCES)  # the tiny tokenizer knows each word
    assert f"{longer / len(SENTENCES):.1%} of sentences are longer than 8 tokens" in printed
    assert "--max-tokens 16" in printed


def test_labelled_examples(tmp_path: Path, capsys) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(json.dumps({"a": s, "b": s.upper()}) for s in SENTENCES))
    main(["doctor", str(file), "--recipe", "simcse_bert_base", "--anchor", "a", "--positive", "b"])
    printed = capsys.readouterr().out
    assert "80 pairs of 160 sentences" in printed
    words = shlex.split(printed.splitlines()[-1])
    assert words[:3] == ["diffcse", "train", str(file)]
    assert words[3:] == ["--anchor", "a", "--positive", "b", "--recipe", "simcse_bert_base", "--output", "my-encoder"]


def test_the_last_line_trains_on_this_text(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    head, rows = "id;body", [f'{i}; Caf\xe9 "{s}' for i, s in enumerate(plain(260))]
    (tmp_path / "my texts.csv").write_bytes(
        "\r\n".join([head.replace(";", ","), *(r.replace(";", ",") for r in rows)]).encode("cp1252")
    )
    model = save_tiny(tmp_path / "model", "bert")
    save(load(model, pooling="mean"), tmp_path / "encoder", "")
    options = ["--column", "body", "--encoding", "cp1252", "--quoting", "none", "--model", "encoder"]
    main(["doctor", "my texts.csv", *options, "--max-line-bytes", "5000"])
    command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert command[:2] == ["diffcse", "train"]
    assert all(option in command for option in [*options, "--max-line-bytes"])
    main(command[1:])
    assert "260 sentences" in capsys.readouterr().out
    assert (tmp_path / "my-encoder" / "model" / "modules.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "no corpus: give one or more text files"),
        (["a.txt", "--batch-size", "8"], "--batch-size: goes with a recipe that trains weights"),
        (["a.txt", "--anchor", "a", "--positive", "b"], "--anchor: the recipe adapt reads plain text"),
        (["nowhere.txt"], "nowhere.txt does not exist"),
        (["~nobody-here/a.txt"], "~nobody-here/a.txt does not exist"),
        (["hub:~nobody-here/a"], "hub:~nobody-here/a: ~nobody-here/a is not a folder"),
        (["nowhere.txt", "--max-tokens", "2"], "--max-tokens 2: must be at least 4"),
        (["nowhere.txt", "--batch-size", "1"], "--batch-size 1: must be at least 2"),
    ],
)
def test_what_is_refused(arguments: list[str], problem: str, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["doctor", *arguments])
    assert caught.value.code == 2
    assert f"error: {problem}" in capsys.readouterr().err
