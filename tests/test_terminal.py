import io
import re

import pytest
from rich.console import Console

from diffcse.cli.similarity import cosine_table
from diffcse.tables.cells import Cell
from diffcse.terminal import (
    CellsView,
    CountView,
    Figures,
    TrainingView,
    _few,
    judged,
    judged_sentence,
    print_figures,
    say,
    table,
)

ENTRY = {
    "step": 50,
    "steps": 100,
    "loss": 0.5,
    "contrastive": 0.4,
    "positive_cosine": 0.8,
    "negative_cosine": 0.1,
    "difference": 0.3,
    "rtd_accuracy": 0.9,
    "rtd_majority": 0.75,
    "sentences_per_second": 123.4,
}
START = {
    "trained": 2_500_000,
    "steps": 100,
    "passes": 1.5,
    "bf16": True,
    "device": "cpu",
    "resumed": None,
    "warnings": ["take [care]"],
}


def shown(*events, terminal=False):
    console = Console(record=True, width=200, force_terminal=terminal)
    view = TrainingView(console, "DiffCSE")
    for event, facts in events:
        view(event, facts)
    view.close()
    return console.export_text()


def test_passes_are_no_powers_of_ten():
    assert [_few(n) for n in (0.048, 1.5, 20.4, 500.0, 12345.0)] == ["0.048", "1.5", "20", "500", "12,345"]
    assert _few(6.4e-5) == "less than 0.001"


def test_a_log_file_gets_a_line_for_each_entry():
    text = shown(
        ("corpus", {"summary": "80 sentences from [1] file"}),
        ("start", START),
        ("log", ENTRY),
        ("log", {**ENTRY, "step": 75}),
        ("log", {"step": 75, "dev": 61.5, "steps": 100}),
        ("done", {"sentences_seen": 200, "truncated": 50}),
    )
    training = "2.5M weights for 100 steps (1.5 passes over the text) on cpu in bf16"
    for part in ("80 sentences from [1] file", training, "take [care]"):
        assert part in text
    assert "loss 0.5000  contrastive 0.4000  cosine 0.80/0.10  rtd 0.300 (accuracy 90.0%, majority 75.0%)" in text
    assert "0:00 left" in text, "the second entry knows the pace"
    assert "dev Spearman 61.50" in text
    assert "200 sentences; 50 (25%) were cut" in text


def test_what_judged_the_run_and_its_verdict():
    found = {"metric": "MRR", "start": 20.0, "last": 22.0, "best": 24.0, "best_step": 1250, "selects": True}
    found |= {"difference": 4.0, "low": 2.5, "high": 5.5, "helped": True}
    assert judged({"label_free": found}) == [
        "held out MRR: 20.00 before training, 24.00 at best (step 1,250, kept in model/), 22.00 after the last step",
        "verdict  training helped: by held-out text, without labels, model/ is +4.00 points from the start (95 % "
        "interval +2.50 to +5.50, wider for every look)",
    ]
    both = judged({"label_free": found, "dev": found | {"metric": "Spearman", "selects": False, "helped": False}})
    assert both[0].startswith("dev      Spearman: 20.00 before training")
    assert "model/" not in both[0], "it did not choose"
    assert both[2].startswith("verdict  training hurt: by dev Spearman")
    assert judged({"steps": 5}) == []


def test_scores_are_logged_by_name():
    assert "step     20  dev Spearman 61.50  held-out text, without labels 23.40" in shown(
        ("log", {"step": 20, "dev": 61.5, "label_free": 23.4, "steps": 100})
    )


def test_simcse_shows_no_rtd():
    entry = {key: value for key, value in ENTRY.items() if not key.startswith(("rtd", "difference"))}
    assert "rtd" not in shown(("start", START), ("log", entry))


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_live_line_fits_the_terminal_and_drops_what_matters_least(width, monkeypatch):
    clock = iter([0.0, 1.0, 31.0])
    monkeypatch.setattr("diffcse.terminal.time.monotonic", lambda: next(clock, 31.0))
    console = Console(file=io.StringIO(), force_terminal=True, width=width)
    with TrainingView(console, "DiffCSE") as view:
        view("log", {**ENTRY, "step": 25})
        view("log", ENTRY)
        view._bar.refresh()
        lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue()).replace("\r", "\n").split("\n")
    line = max((line for line in lines if "step 50/100" in line), key=len)
    assert len(line) <= width
    assert "step 50/100  loss 0.5000  1:00 left" in line
    assert ("contrastive" in line) == (width > 60)
    assert "sentences/s" not in line


def test_a_line_in_a_log_has_everything():
    assert "123 sentences/s" in shown(("start", START), ("log", ENTRY))


@pytest.mark.parametrize(
    ("shipped", "model"), [("start", "model/ is the start"), ("adapted", "with the learned layer")]
)
def test_the_lines_of_adapt_say_which_encoder_ships(shipped, model):
    dev = {"metric": "Spearman", "start": 41.7, "best": 40.6, "best_step": 0, "last": 40.6, "selects": True}
    dev |= {"helped": "unclear", "difference": -1.1, "low": -2.4, "high": 0.2}
    line, verdict = judged({"shipped": shipped, "dev": dev})
    assert model in line
    assert "41.70" in line
    assert "40.60" in line
    assert ("model/ is -1.10" in verdict) == (shipped == "adapted")
    assert "-1.10" in verdict


def test_judged_sentence_joins_pieces_and_marks_what_changed():
    tokens = [
        {"token": "un", "original": "un", "replaced": False, "probability": 0.04},
        {"token": "##happy", "original": "##kind", "replaced": True, "probability": 0.87},
        {"token": "cat", "original": "cat", "replaced": False, "probability": 0.3},
    ]
    text = judged_sentence(tokens)
    assert text.plain == "un₄happy[##kind]₈₇ cat₃₀"
    styles = {text.plain[span.start : span.end]: span.style for span in text.spans}
    assert styles["happy"] == "red underline"
    assert styles["cat"] == "yellow"
    assert styles["un"] == "green"


def test_table_cells_are_text_not_markup():
    console = Console(record=True, width=80)
    console.print(table("", ["a", "b"], [["start, [CLS]", "1"]]))
    assert "start, [CLS]" in console.export_text()


@pytest.mark.parametrize("width", [60, 80, 120, 160])
def test_no_width_cuts_a_figure(width):
    columns = ["encoder", *(f"a long column {i}" for i in range(6))]
    rows = [[f"encoder {n}, fitted on each set", *(f"{100 * n + i}.25" for i in range(6))] for n in range(1, 4)]
    console = Console(file=io.StringIO(), width=width)
    print_figures(console, Figures("Some figures", columns, rows, "below"))
    text = console.file.getvalue()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert all(text.count(cell) == 1 for row in rows for cell in row[1:])
    assert all(text.count(column) == 1 for column in columns[1:])
    assert text.count("┏") == {60: 6, 80: 2, 120: 2, 160: 1}[width]


@pytest.mark.parametrize("width", [40, 80])
def test_a_terminal_folds_lines_between_words_below_their_label(width):
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    line = "note     some words and a/path/that/is/longer/than/the/width/of/a/terminal/may/ever/be " + "word " * 20
    say(console, line)
    text = console.file.getvalue()
    assert text.split() == line.split()
    assert all(part.startswith("         ") for part in text.splitlines()[1:])
    log = Console(file=io.StringIO(), width=width)
    say(log, line)
    assert log.file.getvalue() == line + "\n"


def test_counts_on_a_terminal_show_what_is_left_and_leave_nothing_behind(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("diffcse.terminal.time.monotonic", lambda: clock[0])
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    view = CountView(console, "sentences")
    view(0, 4000)
    clock[0] = 10.0
    view(1000, 4000)
    view.close()
    text = console.file.getvalue()
    assert "1,000 of 4,000 sentences  0:30 left  100 sentences/s" in text
    assert text.rstrip().endswith("\x1b[2K")  # the live line is wiped


def test_counts_in_a_log_come_every_half_minute(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("diffcse.terminal.time.monotonic", lambda: clock[0])
    console = Console(file=io.StringIO(), width=100)
    view = CountView(console, "sentences")
    for second in range(0, 101, 5):
        clock[0] = float(second)
        view(10 * second, None)
    assert console.file.getvalue().split("\n") == [f"{n} sentences  10 sentences/s" for n in (300, 600, 900)] + [""]


@pytest.mark.parametrize("width", [60, 80, 160])
@pytest.mark.parametrize("number", [3, 5, 12])
def test_no_width_cuts_a_cosine_or_a_sentence(width, number):
    sentences = [f"word{i} " * 12 for i in range(number)]
    cosines = [[1.0 if i == j else -((i + j) / 100 + 0.1) for j in range(number)] for i in range(number)]
    console = Console(file=io.StringIO(), width=width)
    console.print(cosine_table(console, sentences, cosines))
    shown = console.file.getvalue()
    assert "…" not in shown
    assert shown.count("word1") >= 12
    for i, row in enumerate(cosines):
        assert f"{max(value for j, value in enumerate(row) if j != i):.2f}" in shown


def cells_view(terminal=False):
    console = Console(file=io.StringIO(), width=160, force_terminal=terminal)
    each = {("[half]", 1): (8.0, 2.0), ("[half]", 2): (20.0, 10.0), ("half", 1): (1.0, 0.0)}
    costs = {Cell(row, seed, "", "", ""): cost for (row, seed), cost in each.items()}
    return CellsView(console, costs=costs, total=4), console.file


def test_runs_of_a_table_come_a_line_each_with_the_time_left(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("diffcse.terminal.time.monotonic", lambda: clock[0])
    view, shown = cells_view()
    one, other = (Cell("[half]", seed, "", "", "") for seed in (1, 2))
    view(one, "corpus", {"summary": "x"})
    view(one, "start", {"steps": 4})
    view(one, "log", {"step": 0, "dev": 60.0})  # the start's score, from which no time is told
    clock[0] = 5.0
    view(one, "log", {"step": 2, "loss": 1.0})
    view(one, "log", {"step": 3, "loss": 1.0})
    clock[0] = 10.0
    scores = {"dev": {"value": 61.234}, "rtd": {"value": None}}
    view(one, "end", {"status": "complete", "scores": scores, "seconds": 9.0})
    clock[0] = 20.0
    view(other, "end", {"status": "failed", "message": "training diverged", "scores": {}, "seconds": None})
    view.close()
    # One was finished before. Of 41 parts to do, four took five seconds; the first run's ten took ten; forty twenty.
    assert shown.getvalue().splitlines() == [
        "[half], seed 1 begins: 4 steps",
        "about 0:46 left",
        "2/4  [half], seed 1  dev 61.23  9 s  0:31 left",
        "3/4  [half], seed 2  FAILED: training diverged  0:00 left",
    ]


def test_the_time_left_is_told_once_all_runs_at_once_have_news():
    view, shown = cells_view()
    one, other = (Cell("[half]", seed, "", "", "") for seed in (1, 2))
    view(one, "start", {"steps": 4})
    view(other, "start", {"steps": 4, "resumed": "step-00000002"})
    view(one, "log", {"step": 0, "dev": 60.0})
    view(one, "log", {"step": 2})
    assert "about" not in shown.getvalue()
    view(other, "log", {"step": 3})
    view(one, "log", {"step": 4})
    told = shown.getvalue().splitlines()
    assert told[1] == "[half], seed 2 resumes from step-00000002"
    assert re.fullmatch(r"about \d+:\d\d left", told[2])
    assert len(told) == 3


def test_what_was_done_before_a_resume_took_none_of_the_time(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("diffcse.terminal.time.monotonic", lambda: clock[0])
    view, shown = cells_view()
    clock[0] = 10.0
    other = Cell("[half]", 2, "", "", "")
    view(other, "start", {"steps": 100, "resumed": "step-00000090"})
    view(other, "log", {"step": 95})
    # Of 10 + 2 + 10 + 1 parts that were still to do, one took ten seconds.
    assert shown.getvalue().splitlines()[1] == "about 3:40 left"


def test_a_run_that_ends_without_news_does_not_keep_the_time_back():
    view, shown = cells_view()
    one, other = (Cell("[half]", seed, "", "", "") for seed in (1, 2))
    view(one, "start", {"steps": 4})
    view(one, "end", {"status": "failed", "message": "training diverged", "scores": {}, "seconds": None})
    view(other, "start", {"steps": 4})
    view(other, "log", {"step": 1})
    assert "about" in shown.getvalue().splitlines()[-1]


def test_on_a_terminal_one_line_shows_all_runs_and_the_latest_news():
    view, shown = cells_view(terminal=True)
    view(Cell("half", 1, "", "", ""), "start", {"steps": 4})
    view(Cell("half", 1, "", "", ""), "log", {"step": 2, "dev": 61.234})
    view._bar.refresh()
    view.close()
    text = shown.getvalue()
    assert "1/4" in text
    assert "half, seed 1  step 2  dev 61.23" in text
    view.close()
