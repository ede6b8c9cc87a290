"""Sources of a comparison: how methods are named."""

from diffcse.evaluation.comparison import kind_of


def test_a_method_with_edited_views_is_not_called_simcse_alone():
    plain = {"difference": "none", "positives": "dropout", "edit_role": "difference"}
    assert kind_of({"method": plain}) == "SimCSE"
    assert kind_of({"method": {**plain, "edit_role": "positive"}}) == "SimCSE (an edited copy as one more positive)"
    assert kind_of({"method": {"difference": "rtd"}}) == "DiffCSE"
