from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffcse.cli import main
from tests.models import SENTENCES, save_tiny


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_report_on_plain_text(tmp_path: Path, capsys) -> None:
    file = tmp_path / "a.txt"
    file.write_text("\n".join([*SENTENCES, SENTENCES[0], "a bell\u200b \x07 & [bold]markup[/bold] &amp; more"]))
    main(["doctor", str(file), "--json", str(tmp_path / "found.json")])
    printed = capsys.readouterr().out
    assert "81 sentences in 1 document from 1 file (82 lines" in printed
    assert "length in words" in printed
    assert "1 of 82 sentences (1.2%) repeat an earlier one" in printed
    assert "with a control character" in printed
    assert "[bold]markup[/bold]" in printed
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["sentences"], found["duplicates"], found["unit"]) == (81, 1, "words")
    assert found["trouble"]["control character"] == 1
    assert [note for note in found["notes"] if "a.txt, line 82" in note]
    assert {"key", "level", "fact", "effect", "fix"} == set(found["findings"][0])


def test_an_encoding_without_bars_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(SENTENCES))
    done = subprocess.run(
        [sys.executable, "-m", "diffcse", "doctor", str(tmp_path / "a.txt")],
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
    main(["doctor", str(file), "--column", "body", "--model", str(model), "--max-tokens", "8"])
    printed = capsys.readouterr().out
    assert "special ones included" in printed
    longer = sum(len(s.split()) + 2 > 8 for s in SENTENCES)  # the tiny tokenizer knows each word
    assert f"{longer / len(SENTENCES):.1%} of sentences are longer than 8 tokens" in printed
    assert "--max-tokens 16" in printed


def test_labelled_examples(tmp_path: Path, capsys) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(json.dumps({"a": s, "b": s.upper()}) for s in SENTENCES))
    main(["doctor", str(file), "--anchor", "a", "--positive", "b"])
    assert "80 pairs of 160 sentences" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "no corpus: give one or more text files"),
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
