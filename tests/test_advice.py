"""What a message advises works: each option, command and extra exists, and whoever follows the advice gets there."""

import ast
import re
import shlex
import tomllib
from pathlib import Path

import pyarrow.parquet
import pytest
import tyro
from tyro.conf import OmitArgPrefixes

import diffcse
from diffcse.cli import VERBS
from diffcse.cli.options import options_of, prepare
from tests.cli.runs import command as run
from tests.models import SENTENCES, save_tiny

SOURCE = Path(diffcse.__file__).parent
OTHERS = {"--local-dir", "--nproc-per-node", "--no-python", "--vector"}
"""Options of other programs that our messages name."""


def messages():
    """(place, text) of every string of the source that is no docstring; of an f-string the constant parts, with …"""
    for file in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        bare = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        inner = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            place = f"{file.relative_to(SOURCE)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.JoinedStr):
                yield place, "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and not {node} & (bare | inner):
                yield place, node.value


MESSAGES = list(messages())
OPTIONS = [option for verb in VERBS.values() for option in options_of(verb)]
NAMES = {option.name for option in OPTIONS}
CHOICES = {name: {choice for option in OPTIONS if option.name == name for choice in option.choices} for name in NAMES}


def test_every_option_that_a_message_names_exists():
    named = [(place, name) for place, text in MESSAGES for name in re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", text)]
    flags = {f"--no-{option.name[2:]}" for option in OPTIONS if option.is_flag} | {"--help", "--help-all"}
    flags |= {"--version", "--set", "--no"} | {old for verb in VERBS.values() for old in getattr(verb, "RENAMED", {})}
    assert len(named) > 100
    assert [pair for pair in named if pair[1] not in NAMES | flags | OTHERS] == []


def test_every_choice_that_a_message_names_exists():
    wrong = []
    for place, text in MESSAGES:
        for name, value in re.findall(r"(--[a-z-]+) ([a-z][\w-]+)", text):
            choices = CHOICES.get(name)
            if choices and value not in choices | {"or", "and", "is"}:
                wrong.append((place, name, value))
    assert wrong == []


def test_every_extra_that_a_message_names_exists():
    project = Path(__file__).parent.parent / "pyproject.toml"
    extras = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = {name for _, text in MESSAGES for name in re.findall(r'pip install "diffcse\[(\w+)\]"', text)}
    assert {"doctor", "peft", "report"} <= named <= extras.keys()


EXAMPLES = [(place, text) for place, text in MESSAGES if "e.g. diffcse" in text]


@pytest.mark.parametrize(("place", "text"), EXAMPLES, ids=[place for place, _ in EXAMPLES])
def test_every_example_is_a_command(place, text):
    _, name, *rest = shlex.split(re.search(r"e\.g\. (diffcse .*)", text)[1].replace("…", "train"))
    kind = VERBS[name]
    defaults = kind.defaults(rest) if hasattr(kind, "defaults") else None
    tyro.cli(kind, args=prepare(kind, name, rest), default=defaults, config=(OmitArgPrefixes,))


# Advice that is followed


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return save_tiny(tmp_path / "tiny", "bert")


def advised(message, name):
    """The option `name` with its value, as the message gives it."""
    return re.search(rf"({name}(?: [\w./,-]*\w)?)", message)[1].split()


TEXTS = {
    "gb18030": ["今天天气很好,我们去公园散步。", "这家餐厅的菜非常好吃。", "请问火车站怎么走?"],
    "shift_jis": ["今日はとても天気がいいです。", "このレストランの料理はおいしい。", "駅はどこですか。"],
    "euc_kr": ["오늘은 날씨가 좋습니다.", "이 식당의 음식은 맛있습니다.", "역이 어디에 있습니까?"],
    "big5": ["今天天氣很好,我們去公園散步。", "這家餐廳的菜非常好吃。", "請問火車站怎麼走?"],
    "windows-1251": ["Сегодня хорошая погода.", "Этот ресторан очень вкусный.", "Где находится вокзал?"],
    "windows-1252": ["Ein schöner Tag im Grünen.", "Das Café war überfüllt – leider.", "Où est la gare?"],
    "windows-1250": ["Dobrý den, jak se máte?", "Příliš žluťoučký kůň úpěl ďábelské ódy.", "Kde je nádraží?"],
    "utf-16-le": ["Hello there, this is a line.", "Another line of text."],
    "utf-16-be": ["Hello there, this is a line.", "Another line of text."],
}


@pytest.mark.parametrize("encoding", TEXTS)
def test_an_encoding_is_guessed_shown_and_read(tiny, tmp_path, capsys, encoding):
    pytest.importorskip("charset_normalizer")
    file, rows = tmp_path / "text.txt", tmp_path / "rows.parquet"
    file.write_bytes("".join(f"{line}\n" for line in TEXTS[encoding]).encode(encoding))
    words = ("embed", tiny, file, "--output", rows, "--pooling", "cls")
    code, _, err = run(capsys, *words)
    assert (code, rows.exists()) == (2, False)
    assert f"reads {TEXTS[encoding][0]!r}" in err
    code, _, err = run(capsys, *words, *advised(err, "--encoding"))
    assert code == 0, err
    assert pyarrow.parquet.read_table(rows)["text"].to_pylist() == TEXTS[encoding]


def test_without_the_guesser_the_message_says_how_to_get_it(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("diffcse.text.guess._has_normalizer", lambda: False)
    (tmp_path / "text.txt").write_bytes("Café\n".encode("windows-1252"))
    code, _, err = run(capsys, "embed", tiny, tmp_path / "text.txt", "--output", tmp_path / "o.npy", "--pooling", "cls")
    assert code == 2
    assert advised(err, "--encoding") == ["--encoding", "windows-1252"]
    assert 'pip install "diffcse[doctor]"' in err


FILES = {
    # name: (file, content, further options, option advised, rows)
    "a stray byte": ("a.txt", "Ä Ö\nÜ é\n".encode() + b"it\x92s\n", (), "--encoding", ["Ä Ö", "Ü é", "it\ufffds"]),
    "an open quote": ("a.csv", b'text,n\n"one,1\ntwo,2\n', (), "--quoting", ['"one', "two"]),
    "no header": ("a.tsv", b"1\tone\n2\ttwo\n", ("--column", "text"), "--columns", ["one", "two"]),
}


@pytest.mark.parametrize("case", FILES)
def test_advice_on_a_file(tiny, tmp_path, capsys, case):
    name, content, options, option, expected = FILES[case]
    file, rows = tmp_path / name, tmp_path / "rows.parquet"
    file.write_bytes(content)
    words = ("embed", tiny, file, "--output", rows, "--pooling", "cls", *options)
    code, _, err = run(capsys, *words)
    assert code == 2
    code, _, err = run(capsys, *words, *advised(err, option))
    assert code == 0, err
    assert pyarrow.parquet.read_table(rows)["text"].to_pylist() == expected


def test_labelled_texts_and_pairs_in_another_encoding(tiny, tmp_path, capsys):
    labelled, pairs = tmp_path / "labelled.csv", tmp_path / "pairs.tsv"
    rows = [f"{sentence} été,{number % 2}" for number, sentence in enumerate(SENTENCES[:20])]
    labelled.write_bytes("\n".join(["text,label", *rows]).encode("windows-1252"))
    pairs.write_bytes("été\tsummer\nété\thiver\n".encode("windows-1252"))
    for words in (("evaluate", tiny, "--texts", labelled), ("similarity", tiny, "--file", pairs)):
        code, _, err = run(capsys, *words, "--pooling", "cls")
        assert code == 2
        code, _, err = run(capsys, *words, "--pooling", "cls", *advised(err, "--encoding"))
        assert code == 0, err


def test_a_plain_checkpoint_takes_the_pooling_that_is_advised(tiny, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    words = ("embed", tiny, tmp_path / "a.txt", "--output", tmp_path / "o.npy")
    code, _, err = run(capsys, *words)
    assert code == 2
    assert run(capsys, *words, *advised(err, "--pooling"))[0] == 0


def test_a_small_text_takes_the_batch_that_is_advised_and_a_tiny_one_gets_no_such_advice(tiny, tmp_path, capsys):
    file, options = tmp_path / "a.txt", ("--recipe", "mini_cpu", "--model", tiny, "--max-steps", "2")
    words = ("train", file, "--output", tmp_path / "out", *options)
    file.write_text("\n".join(SENTENCES[:5]))
    code, _, err = run(capsys, *words)
    assert (code, "--batch-size" in err) == (2, False)
    file.write_text("\n".join(SENTENCES[:40]))
    code, _, err = run(capsys, *words)
    assert (code, advised(err, "--batch-size")) == (2, ["--batch-size", "32"])
    code, _, err = run(capsys, *words, "--batch-size", "32")
    assert code == 0, err


def test_a_begun_run_is_resumed_as_advised(tiny, tmp_path, capsys):
    file, out = tmp_path / "a.txt", tmp_path / "out"
    file.write_text("\n".join(SENTENCES))
    options = ("--recipe", "mini_cpu", "--model", tiny, "--batch-size", "8", "--max-steps", "2")
    assert run(capsys, "train", file, "--output", out, *options)[0] == 0
    code, _, err = run(capsys, "train", file, "--output", out, *options)
    assert (code, "--resume" in err) == (2, True)
    assert run(capsys, "train", file, "--output", out, *options, "--resume")[0] == 0


def test_invisible_text_is_blank(tiny, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("\u200d\u200c\n\u200e\n\x01\x02\n\u2062\n", encoding="utf-8")
    code, _, err = run(capsys, "train", tmp_path / "a.txt", "--output", tmp_path / "out", "--model", tiny)
    assert (code, "blank" in err) == (2, True)
    assert not (tmp_path / "out").exists()


def test_a_warning_of_ours_is_a_line(tmp_path, capsys):
    save_tiny(tmp_path / "padded", "deberta-v2")
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    words = ("embed", tmp_path / "padded", tmp_path / "a.txt", "--output", tmp_path / "o.npy", "--pooling", "cls")
    code, _, err = run(capsys, *words)
    assert code == 0, err
    assert "UserWarning" not in err
    assert re.search(r"^note {5}\w+ runs padded: ", err, re.MULTILINE)
