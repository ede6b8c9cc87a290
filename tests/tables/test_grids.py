"""Grids as files: every shipped cell is a valid run with the published figures; a mistake names file, row and key."""

import dataclasses
import re

import pytest

from diffcse.config import load_recipe
from diffcse.errors import InputError
from diffcse.tables.grids import COLUMNS, cost, grid_names, load_grid, parse_grid, seconds_of

GRID = """\
title = "A table"
reference = "plain"
columns = ["dev", "dev_last"]

[base]
method.rtd_weight = 0.01

[needs.small]
what = "a small generator"

[[rows]]
name = "plain"
published.dev = 80.5

[[rows]]
name = "half"
method.mask_ratio = 0.50
method.generator = "{small}"
"""

PUBLISHED = {
    "main": {
        "start": (),
        "simcse_own": (81.47, 83.91, 76.25, 85.81),
        "simcse": (),
        "diffcse": (84.56, 85.95, 78.49, 86.86),
        "simcse_roberta": (76.57, 84.84),
        "diffcse_roberta": (78.21, 87.04),
    },
    "objective": {
        "diffcse": (84.56, 85.95),
        "no_contrast": (54.48, 83.46),
        "next": (82.91, 85.83),
        "both": (83.41, 85.82),
        "mlm_same": (83.08, 84.43),
        "mlm_next": (75.82, 85.68),
        "mlm_both": (82.88, 84.82),
        "corrective_lm": (79.79, 85.30),
    },
    "edits": {
        "mlm": (84.48, 85.95),
        "insert": (82.20, 85.96),
        "delete": (82.59, 85.97),
        "all_three": (82.80, 85.92),
        "causal_lm": (),
        "replace": (),
        "insert_random": (),
        "positive_mlm": (73.59, 83.33),
        "positive_insert": (80.39, 83.92),
        "positive_delete": (78.58, 81.80),
        "negative_mlm": (83.02, 84.49),
        "negative_insert": (55.65, 79.86),
        "negative_delete": (55.13, 82.56),
    },
    "pooler": {
        "diffcse": (84.56, 85.95),
        "diffcse_tanh": (83.23, 85.24),
        "simcse": (82.22, 85.66),
        "simcse_tanh": (81.47, 83.91),
    },
    "generator": {
        "recipe": (),
        "large": (82.93, 85.88),
        "base": (83.63, 85.85),
        "distil": (84.56, 85.95),
        "medium": (82.25, 85.80),
        "small": (82.64, 85.66),
        "mini": (82.12, 85.90),
        "tiny": (81.40, 85.23),
    },
    "mask_ratio": {"15": (84.48,), "20": (84.04,), "25": (84.49,), "30": (84.56,), "40": (84.48,), "50": (83.91,)},
    "lambda": {
        "0": (82.22,),
        "0.0001": (83.90,),
        "0.0005": (84.40,),
        "0.001": (84.24,),
        "0.005": (84.56,),
        "0.01": (83.44,),
        "0.05": (84.11,),
        "0.1": (83.66,),
        "0.5": (),
        "2": (),
        "50": (),
        "500": (),
    },
    "retrieval": {
        "start": (0.172, -1.468),
        "simcse": (77.84, 92.78, 95.88, 0.177, -2.313),
        "diffcse": (78.87, 95.36, 97.42, 0.097, -1.438),
    },
    "fidelity": dict.fromkeys(
        ("clean", "argmax", "edits_everywhere", "padding_counted", "generator_dropout", "all"), ()
    ),
    "beyond": dict.fromkeys(
        (
            *("start", "diffcse", "further", "further_start", "simcse", "simcse_plain"),
            *("heavy", "heavy_ramp", "heavy_cool", "heavy_pooled"),
            *("heavy_plain", "next", "next_heavy", "both", "both_heavy", "corrective", "mlm_both"),
            *("simcse_short", "simcse_short_further", "corrective_short", "corrective_further"),
        ),
        (),
    ),
    "corrective": {"simcse": (), "corrective_short": (), "rtd": ()},
    "discriminator": dict.fromkeys(("contrast", "projected", "projected_50", "pooled", "pooled_half", "pooled_50"), ()),
    "positives": dict.fromkeys(("simcse", "copy", "delete", "insert", "rtd"), ()),
    "supervised": dict.fromkeys(
        ("simcse", "simcse_batchnorm", "diffcse_tanh", "diffcse", "diffcse_anchor", "diffcse_positive"), ()
    ),
}
"""The paper's figures, in the order of the columns that have one: written down a second time."""


def test_every_table_is_there():
    assert grid_names() == sorted(PUBLISHED)


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_shipped_grids_say_what_was_published(name):
    grid = load_grid(name)
    assert {row.name: tuple(row.published.values()) for row in grid.rows} == PUBLISHED[name]
    for row in grid.rows:
        # "transfer_dev" after "dev", as above: the order of the figures is that of the columns
        assert list(row.published) == [column for column in grid.columns if column in row.published]
        assert (grid.against(row) is None) == (row.name == grid.reference)
    assert bool(grid.paper) == any(PUBLISHED[name].values())


@pytest.mark.parametrize("name", list(PUBLISHED))
@pytest.mark.parametrize("recipe", ["", "diffcse_bert_base_sts"])
def test_every_shipped_cell_is_a_valid_run_that_differs_from_the_others(name, recipe):
    grid = load_grid(name)
    configs = [grid.config(row, recipe=recipe, given=dict.fromkeys(grid.needs, "made")) for row in grid.rows]
    for row, config in zip(grid.rows, configs, strict=True):
        assert config.name == row.name
        assert config.reproduces == ""
        if not recipe:
            idle = config.method.unused()
            assert idle == [], f"{row.name} sets {idle} in vain"
    trained = [(c.method, c.training) for row, c in zip(grid.rows, configs, strict=True) if row.trained]
    if name != "generator":  # all placeholders were filled alike
        assert len(set(trained)) == len(trained)


def test_a_recipe_that_a_row_contradicts_is_refused():
    with pytest.raises(
        InputError, match=r'^objective.toml: method.pairing = "next" .*\(row .next., with --recipe mini_documents\)$'
    ):
        load_grid("objective").config(load_grid("objective").row("next"), recipe="mini_documents")


def test_the_fidelity_rows_change_one_thing_each_and_the_last_all():
    grid = load_grid("fidelity")
    clean, *single, together = [grid.config(row, recipe="diffcse_bert_base_sts").method for row in grid.rows]
    fields = ("sampling", "edit_scope", "rtd_padding", "generator_dropout")
    changed = [[key for key in fields if getattr(one, key) != getattr(clean, key)] for one in single]
    assert changed == [[key] for key in fields]
    assert all(getattr(together, key) != getattr(clean, key) for key in fields)


def test_only_named_columns_look_at_test_sets():
    test = {name: [c for c in load_grid(name).columns if "test" in c] for name in grid_names()}
    assert {name for name, columns in test.items() if columns} == {
        "main",
        "retrieval",
        "corrective",
        "positives",
        "supervised",
    }


def test_a_grid_is_read_in_order_recipe_base_changes_row():
    grid = parse_grid(GRID.encode(), "a.toml")
    plain, half = grid.rows
    assert (plain.label, plain.published, grid.against(plain), grid.against(half)) == (
        "plain", {"dev": 80.5}, None, "plain",
    )  # fmt: skip
    assert grid.config(plain).method.rtd_weight == 0.01
    assert grid.config(plain).training.eval_every == 50  # mini_cpu's
    changes = "method.mask_ratio = 0.2\nmethod.rtd_weight = 0.02"
    assert grid.config(plain, changes=changes).method.mask_ratio == 0.2
    assert grid.config(plain, changes=changes).method.rtd_weight == 0.02
    assert grid.config(half, changes=changes).method.mask_ratio == 0.5
    assert half.placeholders("mini_cpu") == ["small"]
    assert grid.config(half, given={"small": "g/model"}).method.generator == "g/model"


@pytest.mark.parametrize(
    "written",
    [
        "with_recipe.simcse_bert_base.training.learning_rate = 1e-5",
        "with_recipe.simcse_bert_base.training = { learning_rate = 1e-5 }",
        "[rows.with_recipe.simcse_bert_base.training]\nlearning_rate = 1e-5",
        "[rows.with_recipe.simcse_bert_base]\ntraining.learning_rate = 1e-5",
        "with_recipe = { simcse_bert_base = { training = { learning_rate = 1e-5 } } }",
    ],
)
def test_a_row_may_have_fields_for_one_recipe(written):
    def rates(text):
        grid = parse_grid(f"{GRID}{text}\n".encode(), "a.toml")
        names = ("mini_cpu", "simcse_bert_base")
        return [[grid.config(row, recipe=name).training.learning_rate for name in names] for row in grid.rows]

    assert rates(written) == [[3e-5, 3e-5], [3e-5, 1e-5]]
    with pytest.raises(InputError, match=r"^a.toml: training.learning_rate = -1.*'half'"):
        rates(written.replace("1e-5", "-1"))
    with pytest.raises(InputError, match=r"^a.toml: row 'half': with_recipe simcse_bert_bas: .*Did you mean"):
        rates(written.replace("bert_base", "bert_bas"))
    with pytest.raises(InputError, match=r"^a.toml: row 'half': with_recipe: "):
        rates(written.replace("training", "trainings"))


def test_the_row_rtd_has_the_settings_that_its_note_names():
    for name in ("corrective", "positives"):
        grid, recipe = load_grid(name), load_recipe("mini_difference")
        config = grid.config(grid.row("rtd"))
        assert (config.method, config.training, config.text) == (recipe.method, recipe.training, recipe.text)


def test_a_row_needs_what_its_fields_for_this_recipe_need():
    text = GRID.replace('method.generator = "{small}"', 'with_recipe.mini_documents.method.generator = "{small}"')
    half = parse_grid(text.encode(), "a.toml").row("half")
    assert (half.placeholders("mini_cpu"), half.placeholders("mini_documents")) == ([], ["small"])
    with pytest.raises(InputError, match=r"\{smal\} is not explained under \[needs\]"):
        parse_grid(text.replace('"{small}"', '"{smal}"').encode(), "a.toml")


@pytest.mark.parametrize(
    ("grid", "row", "recipe"),
    [
        ("main", "simcse_own", "diffcse_bert_base_sts"),
        ("main", "simcse_own", "diffcse_bert_base_transfer"),
        ("retrieval", "simcse", "diffcse_bert_base_sts"),
    ],
)
def test_simcse_has_its_published_settings_beside_the_papers_recipe(grid, row, recipe):
    own, config = load_recipe("simcse_bert_base"), load_grid(grid).config(load_grid(grid).row(row), recipe=recipe)
    assert config.training == own.training
    assert (config.method.difference, config.method.projector) == (own.method.difference, own.method.projector)


@pytest.mark.parametrize(
    ("old", "new", "start"),
    [
        ("mask_ratio = 0.50", "mask_rato = 0.50", "a.toml: unknown key method.mask_rato: did you mean method."),
        ("mask_ratio = 0.50", "mask_ratio = 1.50", "a.toml: method.mask_ratio = 1.5: "),
        ("method.mask_ratio = 0.50", "mask_ratio = 0.50", "a.toml: row 'half': unknown key mask_ratio: did you"),
        ("method.mask_ratio = 0.50", "method.contrast = false\nmethod.difference = 'none'", "a.toml: method.contrast"),
        ("method.rtd_weight", "method.rtd_wieght", "a.toml: unknown key method.rtd_wieght: did you"),
        ('["dev", "dev_last"]', '["dev", "dev_lst"]', "a.toml: columns: unknown column 'dev_lst': did you"),
        ('reference = "plain"', 'recipe = "mini_cup"', "a.toml: recipe = mini_cup: "),
        ('reference = "plain"', 'reference = "plan"', "a.toml: reference = 'plan': no such row: did you mean 'plain'?"),
        ("published.dev =", "published.dv =", "a.toml: row 'plain': published.dv: no column of this grid: did"),
        ("published.dev = 80.5", "published.dev = '80.5'", "a.toml: row 'plain': published: "),
        ('name = "half"', 'name = "plain"', "a.toml: row 'plain': "),
        ('name = "half"', 'name = "../half"', "a.toml: row '../half': name = '../half': "),
        ('name = "half"', "", "a.toml: row 2: name = '': "),
        ('name = "half"', "[[rows]]", "a.toml: row 2: name = '': "),
        ('name = "half"', 'name = "half"\nagainst = "plian"', "a.toml: row 'half': against = 'plian': no such"),
        ('"{small}"', '"{smal}"', "a.toml: row 'half': {smal} is not explained under [needs]: did you mean 'small'?"),
        ("title = ", "titel = ", "a.toml: unknown key 'titel': did you mean 'title'?"),
        ('title = "A table"', "", "a.toml: title "),
        ("[[rows]]", "[[row]]", "a.toml: unknown key 'row': did you mean 'rows'?"),
        ("[needs.small]", "[needs.small.x]", "a.toml: unknown key needs.small.x"),
        ("[base]\nmethod.rtd_weight = 0.01", "base = 3", "a.toml: base "),
        ("what =", "waht =", "a.toml: unknown key needs.small.waht: did you mean needs.small.what?"),
    ],
)  # fmt: skip
def test_mistakes_are_named_with_file_row_and_key(old, new, start):
    assert old in GRID
    with pytest.raises(InputError, match=f"^{re.escape(start)}"):
        parse_grid(GRID.replace(old, new).encode(), "a.toml")


def test_an_unknown_grid_or_row_names_the_near_miss():
    with pytest.raises(InputError, match=r"grid mian: no .* Did you mean 'main'\?"):
        load_grid("mian")
    with pytest.raises(InputError, match=r"no row 'simce': did you mean 'simcse'\?"):
        load_grid("main").row("simce")


def test_the_cost_counts_steps_tasks_and_what_is_measured():
    # 2 seeds of 300 steps on one core of two: two rows of 0.75 s a step, two of 0.3 s, and a minute of transfer tasks.
    assert cost(load_grid("pooler"), 2) == "about 14 min"
    assert cost(load_grid("lambda"), 2) == "about 55 min"  # λ = 0 and eleven others
    assert cost(dataclasses.replace(load_grid("lambda"), columns=("dev",)), 2) == "about 43 min"  # no transfer tasks
    # 7 rows of RTD, 6 of views: 4 x (7 x 225 + 6 x 120 + 13 x 60) s / 2
    assert cost(load_grid("edits"), 4) == "about 1.7 h"
    plain = load_recipe("mini_cpu")
    assert seconds_of(plain, ["dev", "transfer_dev"]) == (225, 60)
    assert seconds_of(plain, ["dev"], trained=False) == (0, 0)
    once, twice = (seconds_of(load_recipe(name), []) for name in ("simcse_bert_base", "simcse_supervised"))
    assert twice[0] == 3 * once[0]  # epochs
    assert cost(dataclasses.replace(load_grid("pooler"), recipe="diffcse_bert_base_sts"), 2) == "–"
    assert set(COLUMNS) >= {column for name in grid_names() for column in load_grid(name).columns}


def test_the_recipe_of_deletions_is_the_row_that_was_measured():
    grid, recipe = load_grid("positives"), load_recipe("mini_deletion")
    config = grid.config(grid.row("delete"))
    assert (config.method, config.training, config.text) == (recipe.method, recipe.training, recipe.text)
    edits = load_grid("edits")
    same = edits.config(edits.row("positive_delete"))
    assert (config.method, config.training, config.text) == (same.method, same.training, same.text)


def test_the_difference_term_alone_tells_the_supervised_rows_apart():
    grid = load_grid("supervised")
    simcse, diffcse = (
        grid.config(grid.row(name), recipe="mini_difference").method for name in ("simcse", "diffcse_tanh")
    )
    changed = {
        field.name
        for field in dataclasses.fields(simcse)
        if getattr(simcse, field.name) != getattr(diffcse, field.name)
    }
    assert changed == {"difference"}


def test_the_recipe_that_won_is_the_row_that_was_measured():
    row = load_grid("beyond").config(load_grid("beyond").row("corrective_short"))
    recipe = load_recipe("mini_corrective")
    assert (recipe.method, recipe.training, recipe.text) == (row.method, row.training, row.text)
    again = load_grid("corrective").config(load_grid("corrective").row("corrective_short"))
    assert (again.method, again.training, again.text) == (row.method, row.training, row.text)
