"""A plan: which rows run with which settings, and what is said of it before it runs."""

import pytest

from diffcse.errors import InputError
from diffcse.tables.plan import Request, make_plan


def plan(**options):
    return make_plan(Request("pooler", **options))


@pytest.mark.parametrize(
    ("asked", "seeds"), [((3,), (42, 43, 44)), ((21,), (21,)), ((7, 9), (7, 9)), ((20,), tuple(range(42, 62)))]
)
def test_one_small_number_is_a_count_of_seeds(asked, seeds):
    assert plan(seeds=asked).seeds == seeds
    assert plan(seeds=asked).runs_of(plan().rows[0]) == len(seeds)


@pytest.mark.parametrize("asked", [(), (0,), (3, 3), (-1, 2)])
def test_seeds_that_are_none_or_repeat_are_refused(asked):
    with pytest.raises(InputError, match="--seeds"):
        plan(seeds=asked)


def test_settings_come_from_recipe_options_and_row_in_this_order():
    made = plan(given=("method.rtd_weight=0.3", "training.precision=fp32"), model="other/model", max_steps=7)
    configs = made.configs
    assert {config.method.model for config in configs.values()} == {"other/model"}
    assert {config.method.rtd_weight for config in configs.values()} == {0.3}
    assert {(config.training.max_steps, config.training.precision) for config in configs.values()} == {(7, "fp32")}
    assert configs["diffcse_tanh"].method.projector != configs["diffcse"].method.projector
    line = made.lines()[0]
    assert "method.rtd_weight=0.3" in line
    assert "max_steps=7" in line


def test_a_row_without_what_it_needs_is_left_out_and_says_what():
    made = make_plan(Request("generator"))
    assert "small" in made.skipped
    assert "--set small=FOLDER" in made.skipped["small"]
    assert made.runs_of(made.grid.row("small")) == 0
    assert "small" in make_plan(Request("generator", given=("small=models/small",))).configs


def test_a_plan_without_a_text_has_no_cells_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = plan(output=tmp_path / "out")
    assert made.cells == ()
    assert not any(tmp_path.iterdir())
    assert made.alike == []


def test_rows_that_options_make_equal_are_named():
    same = make_plan(Request("lambda", recipe="mini_deletion", only=("0", "0.05", "50")))
    assert same.alike == [["0", "0.05", "50"]]
