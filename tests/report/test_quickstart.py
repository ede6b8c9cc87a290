"""The quickstart's page: it says all its records say, loads nothing, believes no text, and survives what is missing."""

import copy
import math
import re
import sys
from html.parser import HTMLParser

import pytest

from diffcse.errors import InputError
from diffcse.record import Record
from diffcse.report.quickstart import quickstart_page

VOID = {"meta", "br", "line", "circle"}


class Read(HTMLParser):
    """What a browser would make of the page, as far as the tests care."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.text, self.code, self.cells, self.open = [], [], "", "", [], []
        self.feed(page)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *item) for item in attrs]
        if tag in ("td", "th"):
            self.cells.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("script", "style"):
            self.code += data
            return
        self.text += data
        if self.cells and {"td", "th"} & set(self.open):
            self.cells[-1] += data


def made(seed=7, log=None):
    """A quickstart's record and its two runs, by hand."""
    method = {"model": "mini", "difference": "none", "temperature": 0.05, "generator": None}
    training = {"seed": seed, "max_steps": 50, "learning_rate": 2e-4}
    configs = {
        "SimCSE": {"name": "mini_cpu", "method": method, "training": training},
        "DiffCSE": {"name": "mini_cpu", "method": {**method, "difference": "rtd"}, "training": training},
    }
    verdicts = [
        {
            "measure": measure,
            "other": other,
            "difference": difference,
            "low": difference - 1.5,
            "high": difference + 1.5,
            "verdict": verdict,
            "words": f"{measure}: DiffCSE & {other}: {verdict} ({difference:+.1f} points)",
        }
        for measure in ("held-out retrieval (MRR@10)", "graded pairs (Spearman)")
        for other, difference, verdict in (("SimCSE", 3.0, "better"), ("start", 0.2, "tie"), ("TF-IDF", -9.0, "worse"))
    ]
    words = [
        {"token": "we", "original": "we", "replaced": False, "probability": 0.031},
        {"token": "sc", "original": "sc", "replaced": False, "probability": 0.12},
        {"token": "##an", "original": "##ram", "replaced": True, "probability": 0.778},
        {"token": "it", "original": "##ble", "replaced": True, "probability": 0.5},
    ]
    record = Record(
        kind="quickstart",
        config=configs,
        seed=seed,
        data={"python": "3.12.1", "sha256": "ab" * 32, "train_sentences": 12345, "held_out_modules": 54, "pairs": 399},
        scores={
            "columns": ["encoder", "MRR@10", "recall@10", "graded pairs", "alignment ↓", "uniformity ↓"],
            "rows": [
                ["TF-IDF", "33.5", "59.4", "25.9", "1.39", "-3.91"],
                ["start", "15.8", "29.4", "39.5", "0.44", "-1.65"],
                ["SimCSE", "16.6", "30.9", "40.8", "0.48", "-1.79"],
                ["DiffCSE", "17.7", "31.4", "41.9", "0.47", "-1.81"],
            ],
            "verdicts": verdicts,
            "conditional_gain": {
                "own": 0.5012,
                "shuffled": 0.5346,
                "gain": 0.0334,
                "standard_error": 0.0021,
                "accuracy": 0.771,
                "majority": 0.746,
                "tokens": 34799,
            },
            "edited": [words],
        },
        timing={"seconds": 118.5},
        versions={"python": "3.12.1", "diffcse": "0.1.0"},
        hardware={"processor": "a processor", "cores": 2},
        created="2025-03-04T05:06:07+00:00",
        status="complete",
    )
    runs = {}
    for name, config in configs.items():
        entries = []
        for step in (25, 50):
            entry = {"step": step, "loss": 0.5, "contrastive": 0.4 / step, "positive_cosine": 0.8}
            entry["negative_cosine"] = 0.01
            if name == "DiffCSE":
                entry |= {"rtd_log_loss": 0.52, "rtd_accuracy": 0.763, "rtd_majority": 0.741}
                entry |= {"rtd_accuracy_replaced": 0.2, "rtd_accuracy_kept": 0.97}
            entries.append(entry)
        runs[name] = Record(
            kind="train",
            config=config,
            seed=seed,
            data={"sha256": "cd" * 32, "sentences": 12345},
            log=entries if log is None else copy.deepcopy(log),
            scores={"steps": 50},
            timing={"seconds": 30.0},
            status="complete",
        )
    return record, runs


def drawn(record, runs):
    pytest.importorskip("jinja2")
    return quickstart_page(record, runs)


def changed(value, leaf):
    """`value` with `leaf` applied to everything that is not a container."""
    if isinstance(value, dict):
        return {key: changed(item, leaf) for key, item in value.items()}
    if isinstance(value, list):
        return [changed(item, leaf) for item in value]
    return leaf(value)


def test_every_number_and_every_verdict_is_on_the_page():
    record, runs = made()
    read = Read(drawn(record, runs))
    expected = [cell for row in (record.scores["columns"], *record.scores["rows"]) for cell in row]
    assert read.cells[: len(expected)] == expected
    for verdict in record.scores["verdicts"]:
        assert verdict["words"] in read.text
    assert [read.text.count(mark) for mark in ("▲ better", "= tie", "▼ worse")] == [2, 2, 2]
    assert "one seed" in read.text
    assert "On graded pairs (Spearman) DiffCSE is better than SimCSE; worse than TF-IDF; level with start." in read.text
    page = drawn(record, runs)
    assert page.count('class="forest"') == 2
    assert page.index('class="lead"') < page.index('class="forest"') < page.index("were trained from")
    for shown in ("+0.0334", "0.5012", "0.5346", "77.1%", "74.6%", "34,799"):  # conditional gain
        assert shown in read.text
    for shown in ("seed 7", "50 steps", "12,345", "3.12.1"):
        assert shown in read.text
    for shown in ("2025-03-04", "2.0 minutes", "ab" * 32, "cd" * 32, "a processor"):
        assert shown in read.text
    differing = read.cells.index("method.difference")
    assert read.cells[differing - 3 : differing + 3] == [
        *("setting", "SimCSE", "DiffCSE"),
        *("method.difference", "none", "rtd"),
    ]


def test_edited_sentence_joins_the_pieces_of_a_word():
    page = drawn(*made())
    sentence = re.search(r'<p class="sentence">(.*?)</p>', page, re.DOTALL)[1]
    words = [re.sub(r"<.*?>", "", word, flags=re.DOTALL).strip() for word in sentence.split('<span class="word">')[1:]]
    assert words == ["we3", "sc12an[ram]78", "it[##ble]50"]
    assert "<ins>an</ins><del>[ram]</del>" in sentence
    assert "“an” in place of “ram”; probability of “replaced”: 77.8%" in sentence
    assert "“we”, kept; probability of “replaced”: 3.1%" in sentence


def test_every_curve_has_its_last_value():
    page = drawn(*made())
    titles = re.findall(r"<figure>\s*<h3>(.*?)</h3>", page)
    assert titles == [
        *("Contrastive loss", "Positive cosine", "Negative cosine"),
        *("RTD log-loss", "RTD accuracy", "RTD accuracy by kind"),
    ]
    keys = re.findall(r'<div class="key">(.*?)</div>', page)
    shown = [re.findall(r"</svg>(.*?)</span>", key) for key in keys]
    assert shown[0] == ["SimCSE 0.0080", "DiffCSE 0.0080"]
    assert shown[3:] == [["DiffCSE 0.5200"], ["DiffCSE 76.3%", "majority 74.1%"], ["replaced 20.0%", "kept 97.0%"]]
    assert page.count('class="curve"') == 6


@pytest.mark.parametrize(
    ("log", "panels"),
    [
        ([], []),
        ([{"step": 3, "contrastive": 0.02}], ["Contrastive loss"]),
        ([{"step": 3, "contrastive": 0.0}], ["Contrastive loss"]),
        ([{"step": 3, "contrastive": None}, {"step": None, "positive_cosine": 1.0}, {}], []),
        ([{"step": 0, "dev": 60.0}, {"step": 5, "dev": None}, {"step": 9, "dev": 70.126}], ["Dev score"]),
    ],
)
def test_short_and_odd_logs(log, panels):
    page = drawn(*made(log=log))
    assert re.findall(r"<figure>\s*<h3>(.*?)</h3>", page) == panels
    assert ("No training step was logged" in page) == (not panels)
    if "Dev score" in panels:
        assert page.count("70.13</span>") == 2


def test_the_page_loads_nothing():
    page = drawn(*made())
    read = Read(page)
    assert not read.open  # every tag is closed
    assert not {"link", "img", "iframe", "object", "embed", "base", "form"} & set(read.tags)
    assert not [item for item in read.attributes if item[1] in ("src", "href", "srcset", "action", "data")]
    assert not re.search(r"https?:|//[a-z]|url\(|@import", read.code)
    policy = next(value for _, name, value in read.attributes if name == "content" and "default-src" in value)
    assert policy.startswith("default-src 'none';")


def test_text_of_the_record_is_inert():
    record, runs = made()
    plain = Read(drawn(record, runs))
    evil = "\"'></script><script>alert(1)</script><b onclick=x>&lt;{{ 7*7 }}"
    for one in (record, *runs.values()):
        for name in ("config", "data", "scores", "versions", "hardware"):
            setattr(one, name, changed(getattr(one, name), lambda x: x + evil if isinstance(x, str) else x))
        one.created = one.created + evil
    record.scores["edited"][0][0]["token"] = "<script>"
    record.scores["edited"][0][0]["probability"] = evil
    record.warnings = ["<script>alert(2)</script>"]
    record.config = {name + evil: config for name, config in record.config.items()}
    page = drawn(record, {name + evil: run for name, run in runs.items()})
    assert "<script>alert" not in page
    read = Read(page)
    for tag in ("script", "b", "ins"):
        assert read.tags.count(tag) - plain.tags.count(tag) == (tag == "b")  # the word "Note" of the warning
    assert not [item for item in read.attributes if item[1].startswith("on")]
    assert "<script>alert(2)</script>" in read.text  # shown as what it is
    assert "49" not in read.text


def test_missing_values_are_dashes():
    record, runs = made()
    for one in (record, *runs.values()):
        for name in ("config", "data", "log", "scores", "timing", "versions", "hardware"):
            setattr(one, name, changed(getattr(one, name), lambda x: None))
    read = Read(drawn(record, runs))
    assert read.cells[:30] == ["–"] * 30
    assert "None" not in read.text
    assert read.text.count("–") > 50


def test_values_that_are_not_finite_are_dashes():
    record, runs = made()
    for one in (record, *runs.values()):
        for name in ("data", "log", "scores", "timing"):
            value = getattr(one, name)
            setattr(one, name, changed(value, lambda x: math.nan if isinstance(x, float) else x))
    record.scores["rows"][0][1] = "nan"
    record.scores["edited"][0][0]["token"] = "nan"  # a word like any other
    read = Read(drawn(record, runs))
    assert read.cells[6:8] == ["TF-IDF", "–"]
    assert re.findall(r"\bnan\b", read.text) == ["nan"]
    assert not re.search(r"\bNaN\b", read.code)


def test_empty_records():
    record = Record(kind="quickstart", config={}, seed=1, versions={}, hardware={})
    assert "No scores were recorded" in drawn(record, {})
    for key in ("conditional_gain", "edited", "verdicts", "rows", "columns"):
        record, runs = made()
        record.scores[key] = None
        drawn(record, runs)


def test_the_same_records_give_the_same_page():
    assert drawn(*made()) == drawn(*made())


def test_without_the_extra_the_error_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(InputError, match=re.escape('pip install "diffcse[report]"')):
        quickstart_page(*made())


def test_importing_the_module_needs_neither_the_extra_nor_torch():
    import subprocess

    code = "import sys, diffcse.report.quickstart; print({'torch', 'jinja2'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
