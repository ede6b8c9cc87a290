"""A run goes on from the newest checkpoint that is whole, however the others were damaged."""

import re

import pytest
import torch
from torch import nn

from diffcse.errors import InputError
from diffcse.files import staged_folder, write_manifest
from diffcse.training.checkpoints import checkpoint_path, load_weights, newest_whole, prune, save_weights


def save(folder, step):
    with staged_folder(checkpoint_path(folder, step)) as staging:
        (staging / "weights").write_bytes(bytes([step % 256]) * 100)
        (staging / "state.json").write_text(f'{{"step": {step}}}')
        write_manifest(staging)
    return checkpoint_path(folder, step)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_nothing_to_go_on_from(tmp_path):
    assert newest_whole(tmp_path) == (None, [])
    assert newest_whole(tmp_path / "missing") == (None, [])


def test_the_newest_is_the_one_with_most_steps(tmp_path):
    for step in (900, 1000, 5, 99_999_999, 100_000_000):  # the last has a longer name than the others
        newest = save(tmp_path, step)
    assert newest_whole(tmp_path) == (newest, [])


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing file", "no manifest", "empty", "a file"])
def test_a_torn_one_is_skipped_and_named(tmp_path, damage):
    whole, torn = save(tmp_path, 100), save(tmp_path, 200)
    if damage == "truncated":
        (torn / "weights").write_bytes(bytes([200]) * 99)
    elif damage == "altered":
        (torn / "weights").write_bytes(bytes([200]) * 99 + b"x")
    elif damage == "missing file":
        (torn / "weights").unlink()
    elif damage == "no manifest":
        (torn / "manifest.json").unlink()
    else:
        for file in torn.iterdir():
            file.unlink()
        if damage == "a file":
            torn.rmdir()
            torn.touch()
    assert newest_whole(tmp_path) == (whole, [torn])


def test_all_torn(tmp_path):
    folders = [save(tmp_path, step) for step in (100, 200)]
    for folder in folders:
        (folder / "state.json").unlink()
    assert newest_whole(tmp_path) == (None, folders[::-1])


def test_other_names_are_no_checkpoints(tmp_path):
    save(tmp_path, 100)
    for name in ("step-", "step-x", "step-00000200.bak", "old-step-00000300", "step-old-step-00000400"):
        save(tmp_path, 1).rename(tmp_path / name)
    assert newest_whole(tmp_path)[0] == checkpoint_path(tmp_path, 100)
    prune(tmp_path, keep=0)
    assert names(tmp_path) == sorted(
        ("step-", "step-x", "step-00000200.bak", "old-step-00000300", "step-old-step-00000400")
    )


def test_prune_keeps_the_newest_and_clears_what_a_kill_left(tmp_path):
    for step in (100, 200, 300):
        save(tmp_path, step)
    save(tmp_path, 400).rename(tmp_path / ".step-00000400.77.partial")
    prune(tmp_path)
    assert names(tmp_path) == ["step-00000200", "step-00000300"]
    prune(tmp_path, keep=1)
    assert names(tmp_path) == ["step-00000300"]


def test_prune_never_removes_the_one_just_saved_in_favour_of_damaged_ones(tmp_path):
    """Both kept checkpoints were damaged, the run began anew, and reaches its first checkpoint."""
    for step in (900, 1000):
        (save(tmp_path, step) / "weights").unlink()
    save(tmp_path, 100)
    prune(tmp_path, 100)
    assert newest_whole(tmp_path) == (checkpoint_path(tmp_path, 100), [])
    assert names(tmp_path) == ["step-00000100"]


# Weights


class Parts(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.encoder = nn.Linear(width, 2)
        self.generator = nn.Linear(2, 2)

    def trained_state(self):
        return {name: value for name, value in self.state_dict().items() if not name.startswith("generator.")}


def test_weights_come_back_and_the_generator_stays(tmp_path):
    one, other = Parts(), Parts()
    generator = other.generator.weight.clone()
    save_weights(one.trained_state(), tmp_path / "parts.safetensors")
    load_weights(other.trained_state(), tmp_path / "parts.safetensors")
    assert torch.equal(one.encoder.weight, other.encoder.weight)
    assert torch.equal(generator, other.generator.weight)
    assert names(tmp_path) == ["parts.safetensors"]


def test_weights_need_not_lie_in_one_piece(tmp_path):
    weight = torch.arange(12.0).reshape(3, 4).T
    save_weights({"encoder.weight": weight, "encoder.bias": torch.zeros(4)}, tmp_path / "a")
    model = Parts()
    model.encoder = nn.Linear(3, 4)
    load_weights(model.trained_state(), tmp_path / "a")
    assert torch.equal(model.encoder.weight, weight)


@pytest.mark.parametrize(
    ("change", "first"),
    [
        (lambda state: state.pop("encoder.bias"), "encoder.bias"),
        (lambda state: state.update(more=torch.zeros(1)), "more"),
        (lambda state: state.update({"encoder.weight": torch.zeros(2, 4)}), "encoder.weight"),
    ],
)
def test_other_weights_are_refused(tmp_path, change, first):
    model = Parts()
    state = model.trained_state()
    change(state)
    save_weights(state, tmp_path / "a")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError, match=rf"{re.escape(str(tmp_path / 'a'))}: .*{re.escape(first)}"):
        load_weights(model.trained_state(), tmp_path / "a")
    if first == "encoder.weight":
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("content", [None, b"", b"no weights"])
def test_unreadable_weights(tmp_path, content):
    if content is not None:
        (tmp_path / "a").write_bytes(content)
    with pytest.raises(InputError, match=re.escape(f"{tmp_path / 'a'}: ")):
        load_weights(Parts().trained_state(), tmp_path / "a")
