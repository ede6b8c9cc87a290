"""x -> x′ -> x″ -> r: worked by hand on six tokens, against loops on every kind of sentence, and by its statistics."""

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from diffcse import config
from diffcse.config import EDITS, Method
from diffcse.errors import InputError
from diffcse.method import edits
from diffcse.method.edits import Draw, Editor, Tools, Vocabulary, edit, longest_copy, mask_tokens
from diffcse.method.loading import read_vocabulary
from diffcse.method.sampling import rows_at_once
from tests.models import tiny_model

from .edit_loops import EXAMPLE, Copy, Loops

DOCS = (Path(__file__).parents[2] / "docs" / "method.md").read_text(encoding="utf-8")

# ids: 0 pad, 1 unk, 2 start, 3 end, 4 mask, then words
VOCABULARY = Vocabulary(size=12, mask=4, special=(0, 1, 2, 3, 4))
X = torch.tensor([[2, 5, 6, 7, 3, 0]])  # start, three words, end, padding
REAL = torch.tensor([[1, 1, 1, 1, 1, 0]])


class Scripted(nn.Module):
    """A generator that is certain of one token at each position, whatever it reads."""

    def __init__(self, tokens, certainty=50.0):
        super().__init__()
        self.tokens, self.certainty, self.seen = torch.tensor(tokens), certainty, None

    def forward(self, input_ids, attention_mask):
        self.seen = input_ids
        logits = nn.functional.one_hot(self.tokens, VOCABULARY.size).float() * self.certainty
        return SimpleNamespace(logits=logits.expand(len(input_ids), -1, -1))


def run(
    generator=None,
    *,
    editors=("mlm",),
    ratio=0.5,
    sampling="argmax",
    scope="masked",
    address=(0, 0),
    x=X,
    real=REAL,
    temperature=1.0,
    rows=None,
    causal=None,
):
    tools = Tools(VOCABULARY, ratio, sampling, temperature, scope, generator=generator, causal_generator=causal)
    return edit(x, real, editors, tools, Draw(address, torch.arange(len(x)) if rows is None else rows))


def test_masked_scope_by_hand():
    # G says 9 everywhere, except at position 3, where it says 7: the token that stands there already.
    edited = run(Scripted([9, 9, 9, 7, 9, 9]), ratio=0.999)
    assert edited.chosen.tolist() == [[False, True, True, True, False, False]], "start, end and padding never"
    assert edited.ids.tolist() == [[2, 9, 9, 7, 3, 0]]
    assert edited.labels.tolist() == [[0, 1, 1, 0, 0, 0]], "a mask filled with the original is original"
    assert edited.editable.tolist() == [[False, True, True, True, False, False]]


def test_all_scope_by_hand():
    # Nothing is masked here (ratio ~ 0), yet G's opinion replaces every real position but the start, the end too.
    edited = run(Scripted([9, 9, 6, 8, 10, 11]), ratio=1e-9, scope="all")
    assert not edited.chosen.any()
    assert edited.ids.tolist() == [[2, 9, 6, 8, 10, 0]]
    assert edited.labels.tolist() == [[0, 1, 0, 1, 1, 0]]
    assert edited.editable.tolist() == [[False, True, True, True, True, False]]


def test_generator_reads_the_masked_copy():
    generator = Scripted([9] * 6)
    edited = run(generator, ratio=0.999)
    assert torch.equal(generator.seen, edited.masked)
    assert (edited.masked != X).any()
    assert torch.equal(edited.masked[~edited.chosen], X[~edited.chosen])


def test_argmax_against_sample():
    """Argmax takes the likeliest; a sample follows the distribution, here one half each on tokens 8 and 9."""

    class Coin(nn.Module):
        def forward(self, input_ids, attention_mask):
            logits = torch.full((*input_ids.shape, VOCABULARY.size), -1e9)
            logits[..., 8], logits[..., 9] = 0.0, 1e-6
            return SimpleNamespace(logits=logits)

    x, real = X.expand(4000, -1), REAL.expand(4000, -1)
    argmax = run(Coin(), ratio=0.999, x=x, real=real)
    assert set(argmax.ids[argmax.chosen].tolist()) == {9}
    sample = run(Coin(), ratio=0.999, x=x, real=real, sampling="sample")
    drawn = sample.ids[sample.chosen]
    assert set(drawn.tolist()) == {8, 9}
    assert abs((drawn == 8).float().mean() - 0.5) < 0.02


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
def test_samples_follow_the_distribution(temperature):
    torch.manual_seed(0)
    logits_V = torch.randn(VOCABULARY.size) * 2

    class Fixed(nn.Module):
        def forward(self, input_ids, attention_mask):
            return SimpleNamespace(logits=logits_V.expand(*input_ids.shape, -1))

    x, real = X.expand(20000, -1), REAL.expand(20000, -1)
    edited = run(Fixed(), ratio=0.999, x=x, real=real, sampling="sample", temperature=temperature)
    counts = torch.bincount(edited.ids[edited.chosen], minlength=VOCABULARY.size)
    expected = (logits_V / temperature).softmax(0) * counts.sum()
    assert ((counts - expected) ** 2 / expected).sum() < 31.3, "11 degrees of freedom, p = 0.001"


def test_logits_at_once():
    """A core's cache holds two megabytes of them; a GPU takes the thousand positions of an ordinary batch together."""
    assert rows_at_once(torch.device("cpu"), 30_522) == 17
    assert 1000 < rows_at_once(torch.device("cuda"), 30_522) < 1200
    assert rows_at_once(torch.device("cpu"), 1 << 20) == 1


def test_ratio_and_80_10_10():
    x = torch.tensor([[2, *[5 + i % 7 for i in range(40)], 3]]).expand(3000, -1)
    masked, chosen = mask_tokens(x, torch.ones_like(x), VOCABULARY, 0.3, Draw((1,), torch.arange(3000)))
    words = ~VOCABULARY.is_special(x)
    assert not chosen[~words].any()
    assert chosen[words].float().mean() == pytest.approx(0.3, abs=0.005)
    picked, original = masked[chosen], x[chosen]
    # A random token is [MASK] or the original in 1 of 12 cases each.
    assert (picked == 4).float().mean() == pytest.approx(0.8 + 0.1 / 12, abs=0.01)
    assert (picked == original).float().mean() == pytest.approx(0.1 + 0.1 / 12, abs=0.01)
    other = picked[(picked != 4) & (picked != original)]
    assert set(other.tolist()) == set(range(12)) - {4}, "random tokens come from the whole vocabulary"
    assert torch.equal(masked[~chosen], x[~chosen])


def test_step_row_and_seed_change_the_mask_and_nothing_else_does():
    def chosen(**changes):
        return run(Scripted([9] * 6), x=X.expand(64, -1), real=REAL.expand(64, -1), **changes).chosen

    assert torch.equal(chosen(), chosen(sampling="sample"))
    assert not torch.equal(chosen(), chosen(address=(0, 1)))
    assert not torch.equal(chosen(), chosen(address=(1, 0)))
    assert len({tuple(row) for row in chosen().tolist()}) > 1, "rows get masks of their own"


# ---- each editor by hand: "the cat sat down" and a random number for each position

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = [*SPECIAL, "the", "cat", "sat", "down", "dog", "man", "there", "big", "right", "seven", "blue"]
SENTENCE = "[CLS] the cat sat down [SEP]"
NUMBERS = [0.6, 0.9, 0.1, 0.8, 0.2, 0.5, 0.0]  # of 4 words at ratio 0.5 "cat" and "down" are drawn


class Told(Draw):
    """Random numbers by hand: `NUMBERS` choose, and `words` stand where the drawn tokens of the copy will."""

    words: tuple = ()

    def uniforms(self, stream, width):
        return torch.tensor([*NUMBERS, *[0.0] * width])[None, :width]

    def integers(self, stream, width, below):
        ordinary = [id_ for id_ in range(len(WORDS)) if id_ > 4]
        return torch.tensor([ordinary.index(id_) if id_ in ordinary else 0 for id_ in self.words])[None, :width]


def ids_of(text):
    return [WORDS.index(word) for word in text.split()]


def worked(name):
    """The sentence edited as in the example, with one column of padding."""
    said, expected, _ = EXAMPLE[name]
    said, copy = ids_of(said), ids_of(expected)
    positions = {2: said[0], 5 if "insert" in name else 4: said[1]} if said else {}
    tokens = torch.tensor([positions.get(t, 4) for t in range(len(copy) + 4)])

    class Says(nn.Module):
        def forward(self, input_ids, attention_mask):
            ahead = 1 if name == "causal_lm" else 0  # position t of a causal model speaks of t + 1
            return SimpleNamespace(
                logits=nn.functional.one_hot(tokens[ahead : input_ids.shape[1] + ahead], len(WORDS)).float()[None]
            )

    vocabulary = Vocabulary(size=len(WORDS), mask=4, special=(0, 1, 2, 3, 4))
    tools = Tools(vocabulary, 0.5, "argmax", generator=Says(), causal_generator=Says())
    draw = Told((0, 0), torch.arange(1))
    object.__setattr__(draw, "words", tuple(tokens.tolist()))
    x = torch.tensor([[*ids_of(SENTENCE), 0]])
    return edit(x, (x != 0).long(), [name], tools, draw)


@pytest.mark.parametrize("name", EXAMPLE)
def test_the_worked_example(name):
    _, copy, labels = EXAMPLE[name]
    (edited,) = copies(worked(name))
    assert [WORDS[id_] for id_ in edited.ids] == copy.split()
    assert edited.labels == [int(label) for label in labels.split()]


def test_what_else_is_noted_in_the_worked_example():
    (mlm,) = copies(worked("mlm"))
    assert mlm.masked == ids_of("[CLS] the [MASK] sat [MASK] [SEP]")
    assert mlm.chosen == [False, False, True, False, True, False], "chosen, also where the original came back"
    assert mlm.original == ids_of(SENTENCE)
    (insert,) = copies(worked("insert"))
    assert insert.masked == ids_of("[CLS] the [MASK] cat sat [MASK] down [SEP]")
    assert insert.original == [2, 5, -1, 6, 7, -1, 8, 3]
    assert insert.editable == [False, True, True, True, True, True, True, False]
    (delete,) = copies(worked("delete"))
    assert delete.editable == [False, False, True, True], "nothing could be missing before the first word"


@pytest.mark.parametrize("name", EXAMPLE)
def test_the_docs_show_the_worked_example(name):
    _, copy, labels = EXAMPLE[name]
    assert f"| `{name}` | {copy} | {labels} |" in DOCS
    assert set(EXAMPLE) == set(EDITS), "an editor more: work its example"


# ---- against loops, on sentences of every kind


def copies(edited):
    """Each row without its padding, which must be clean."""
    rows = []
    assert len({getattr(edited, field.name).shape for field in dataclasses.fields(edited)}) == 1
    for row in range(len(edited.ids)):
        of = {field.name: getattr(edited, field.name)[row].tolist() for field in dataclasses.fields(edited)}
        length = sum(of.pop("attention"))
        rows.append(Copy(**{name: values[:length] for name, values in of.items()}))
        assert not any(of["labels"][length:]), "padding is original"
        assert not any(of["editable"][length:])
        assert not any(of["chosen"][length:])
        assert set(of["original"][length:]) <= {-1}
        assert len(set(of["ids"][length:]) | set(of["masked"][length:])) <= 1
    return rows


class Bench:
    """Tiny language models of one vocabulary, as modules and as functions of one sentence."""

    def __init__(self, kind):
        self.masked, tokenizer = tiny_model("roberta" if kind == "roberta" else "bert", hidden=16, layers=1)
        self.causal, _ = tiny_model("gpt2", hidden=16, layers=1, seed=1, tokens=kind)
        self.vocabulary = read_vocabulary(tokenizer)
        self.start, self.end = tokenizer.cls_token_id, tokenizer.sep_token_id
        self.unknown, self.pad = tokenizer.unk_token_id, tokenizer.pad_token_id

    def sentences(self, seed, lengths=(0, 1, 2, 3, 9, 14, 5, 5)):
        """Sentences of so many words; every third token of the fifth is unknown, and one holds nothing else."""
        generator = torch.Generator().manual_seed(seed)
        ordinary = self.vocabulary.words(torch.device("cpu"))
        rows = [ordinary[torch.randint(len(ordinary), (n,), generator=generator)].tolist() for n in lengths]
        if len(rows) > 4:
            rows[4][::3] = [self.unknown] * len(rows[4][::3])
            rows[-1] = [self.unknown] * len(rows[-1])
        return [[self.start, *row, self.end] for row in rows]

    def batch(self, rows, wider=0):
        width = max(map(len, rows), default=1) + wider
        ids = torch.tensor([[*row, *[self.pad] * (width - len(row))] for row in rows]).reshape(-1, width)
        real = torch.tensor([[int(t < len(row)) for t in range(width)] for row in rows]).reshape(-1, width)
        return ids, real

    def tools(self, *, ratio=0.3, sampling="sample", temperature=1.0, scope="masked"):
        return Tools(self.vocabulary, ratio, sampling, temperature, scope, self.masked, self.causal)

    def edit(self, names, rows, numbers, *, wider=0, address=(7, 3), **choices):
        x, real = self.batch(rows, wider)
        return edit(x, real, names, self.tools(**choices), Draw(address, torch.tensor(numbers, dtype=torch.long)))

    @torch.no_grad()
    def loops(self, names, rows, numbers, *, address=(7, 3), **choices):
        loops = Loops(
            size=self.vocabulary.size,
            mask=self.vocabulary.mask,
            special=self.vocabulary.special,
            address=address,
            masked_lm=lambda tokens: self.masked(input_ids=torch.tensor([tokens])).logits[0],
            causal_lm=lambda prefix: self.causal(input_ids=torch.tensor([prefix])).logits[0, -1],
            **{"ratio": 0.3} | choices,
        )
        return [loops.edit(names, row, number) for row, number in zip(rows, numbers, strict=True)]


@pytest.fixture(scope="module", params=["bert", "roberta"])
def bench(request):
    return Bench(request.param)


@pytest.mark.parametrize("ratio", [1e-6, 0.3, 0.5, 1 - 1e-6])
@pytest.mark.parametrize("name", EDITS)
def test_editor_against_loops(bench, name, ratio):
    rows = bench.sentences(seed=1)
    numbers = list(range(11, 11 + len(rows)))
    expected = bench.loops([name], rows, numbers, ratio=ratio)
    assert copies(bench.edit([name], rows, numbers, wider=2, ratio=ratio)) == expected
    if ratio == 0.5:
        assert any(any(copy.labels) for copy in expected)


@pytest.mark.parametrize(
    "choices",
    [
        {"sampling": "argmax"},
        {"temperature": 0.3},
        {"scope": "all"},
        {"scope": "all", "sampling": "argmax", "ratio": 0.7},
    ],
    ids=str,
)
def test_generated_edits_against_loops(bench, choices):
    rows = bench.sentences(seed=2)
    numbers = [3, 1, 4, 15, 9, 26, 53, 58]
    names = [n for n in ("mlm", "causal_lm", "insert") if EDITS[n].takes_all or choices.get("scope") != "all"]
    for name in names:
        assert copies(bench.edit([name], rows, numbers, **choices)) == bench.loops([name], rows, numbers, **choices)


@pytest.mark.parametrize("name", ["mlm", "causal_lm"])
def test_scope_all_keeps_the_start_and_may_replace_the_end(bench, name):
    rows = bench.sentences(seed=3) * 4
    edited = copies(bench.edit([name], rows, list(range(len(rows))), scope="all"))
    for x, copy in zip(rows, edited, strict=True):
        assert copy.ids[0] == x[0]
        assert copy.editable == [False, *[True] * (len(x) - 1)]
    assert any(copy.labels[-1] for copy in edited)


@pytest.mark.parametrize("name", ["replace", "insert_random", "delete"])
@given(data=st.data())
@settings(max_examples=60)
def test_any_sentence_any_ratio(name, data):
    """Words 5 to 11, specials 1 to 4 anywhere behind the start: whatever a tokenizer may give."""
    rows = data.draw(st.lists(st.lists(st.integers(1, 11), max_size=9), min_size=1, max_size=4))
    rows = [[2, *row] for row in rows]
    ratio = data.draw(st.floats(0, 1, exclude_min=True, exclude_max=True, width=32))
    numbers = data.draw(
        st.lists(st.integers(0, 2**42), min_size=len(rows), max_size=len(rows), unique=True), label="row numbers"
    )
    width = max(map(len, rows)) + data.draw(st.integers(0, 3))
    x = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    tools = Tools(VOCABULARY, ratio)
    edited = edit(x, (x != 0).long(), [name], tools, Draw((5, 1), torch.tensor(numbers)))
    loops = Loops(12, 4, (0, 1, 2, 3, 4), ratio, (5, 1))
    assert copies(edited) == [loops.edit([name], row, number) for row, number in zip(rows, numbers, strict=True)]


def test_numbers_of_insertions_and_deletions_are_exact():
    for words in range(0, 45):
        for ratio in (0.01, 0.1, 0.3, 0.5, 0.7, 0.99):
            x = torch.tensor([[2, *[5 + i % 7 for i in range(words)], 3]])
            wanted = 0 if words == 0 else max(1, int(words * ratio + 0.5))
            inserted = run(editors=["insert_random"], x=x, real=torch.ones_like(x), ratio=ratio)
            assert inserted.attention.sum() - x.shape[1] == inserted.labels.sum() == wanted
            assert inserted.ids.shape[1] == longest_copy(x.shape[1], ratio)
            deleted = run(editors=["delete"], x=x, real=torch.ones_like(x), ratio=ratio)
            assert x.shape[1] - deleted.attention.sum() == min(wanted, max(words - 1, 0)), "one word is always left"


def test_a_tokenizer_without_start_and_end_tokens():
    """Every position is a word: the first has no gap before it and no prefix to be predicted from."""
    for length in (1, 2, 15, 45, 90):
        for ratio in (0.1, 0.3, 0.7, 0.99):  # 45 · 0.7 is 31.5 in float32, and a little less in float64
            x = torch.tensor([[5 + i % 7 for i in range(length)]])
            opened = min(length - 1, max(1, int(length * ratio + 0.5)))
            edited = run(editors=["insert_random"], x=x, real=torch.ones_like(x), ratio=ratio)
            assert edited.attention.sum() == length + opened
            causal = run(
                editors=["causal_lm"], causal=Scripted([9] * length), x=x, real=torch.ones_like(x), ratio=ratio
            )
            assert causal.ids[0, 0] == x[0, 0]
            assert not causal.chosen[0, 0]


# ---- rows on their own


@pytest.mark.parametrize("name", EDITS)
def test_a_row_is_edited_alike_alone_in_a_shard_and_under_any_padding(bench, name):
    rows = bench.sentences(seed=4)
    numbers = [100 + i for i in range(len(rows))]
    whole = copies(bench.edit([name], rows, numbers))
    assert copies(bench.edit([name], rows, numbers, wider=9)) == whole
    assert copies(bench.edit([name], rows[3:6], numbers[3:6])) == whole[3:6], "a shard"
    assert copies(bench.edit([name], rows[::-1], numbers[::-1])) == whole[::-1]
    for row, number, expected in zip(rows, numbers, whole, strict=True):
        assert copies(bench.edit([name], [row], [number])) == [expected]
    assert copies(bench.edit([name], rows, [n + 1 for n in numbers])) != whole, "another row"
    assert copies(bench.edit([name], rows, numbers, address=(7, 4))) != whole, "another step"
    assert copies(bench.edit([name], rows, numbers, address=(8, 3))) != whole, "another seed"


def test_of_several_editors_each_row_draws_one_and_that_one_edits_it(bench):
    names = list(EDITS)
    rows = bench.sentences(seed=5) * 4
    numbers = [1000 + i for i in range(len(rows))]
    mixed = copies(bench.edit(names, rows, numbers))
    assert mixed == bench.loops(names, rows, numbers)
    alone = {name: copies(bench.edit([name], rows, numbers)) for name in names}
    drawn = {name: sum(mixed[i] == alone[name][i] for i in range(len(rows))) for name in names}
    assert all(any(mixed[i] == alone[name][i] for name in names) for i in range(len(rows)))
    assert all(drawn.values()), drawn
    assert copies(bench.edit(names, rows[5:9], numbers[5:9])) == mixed[5:9], "a shard draws the same"


def test_of_several_editors_all_are_equally_likely():
    x = torch.tensor([[2, 5, 6, 7, 8, 3]]).expand(6000, -1)
    edited = run(editors=["replace", "insert_random", "delete"], x=x, real=torch.ones_like(x))
    lengths = edited.attention.sum(1)
    assert set(lengths.tolist()) == {4, 6, 8}
    for length in (4, 6, 8):
        assert (lengths == length).float().mean() == pytest.approx(1 / 3, abs=0.025)


@pytest.mark.parametrize("names", [*([name] for name in EDITS), list(EDITS)], ids=str)
def test_no_rows_are_edited_to_no_rows(bench, names):
    x = torch.zeros(0, 6, dtype=torch.long)
    edited = edit(x, x, names, bench.tools(), Draw((0, 0), torch.zeros(0, dtype=torch.long)))
    assert len(edited.ids) == len(edited.labels) == 0
    assert edited.ids.dtype == edited.labels.dtype == torch.long
    assert edited.editable.dtype == torch.bool


# ---- chance


def test_random_tokens_are_uniform_and_never_special():
    x = torch.tensor([[2, 5, 5, 5, 5, 3]]).expand(5000, -1)
    for name in ("replace", "insert_random"):
        edited = run(editors=[name], x=x, real=torch.ones_like(x), ratio=0.999)
        counts = torch.bincount(edited.ids[edited.chosen], minlength=12)
        assert not counts[:5].any()
        expected = counts.sum() / 7
        assert ((counts[5:] - expected) ** 2 / expected).sum() < 22.5, "6 degrees of freedom, p = 0.001"


def test_gaps_and_deletions_are_uniform():
    x = torch.tensor([[2, 5, 6, 7, 8, 3]]).expand(6000, -1)
    inserted = run(editors=["insert_random"], x=x, real=torch.ones_like(x), ratio=0.25)  # one each
    places = inserted.labels.argmax(1)
    assert set(places.tolist()) == {1, 2, 3, 4, 5}, "never before the start, never after the end"
    assert torch.bincount(places)[1:].float().div(6000).tolist() == pytest.approx([0.2] * 5, abs=0.02)
    deleted = run(editors=["delete"], x=x, real=torch.ones_like(x), ratio=0.25)
    gone = torch.bincount(26 - deleted.ids.sum(1) + deleted.ids[:, 0] + 3, minlength=14)
    assert (gone > 0).sum() == 4
    assert gone[gone > 0].float().div(6000).tolist() == pytest.approx([0.25] * 4, abs=0.02)


# ---- language models


def test_a_causal_edit_is_predicted_from_the_original_prefix(bench):
    """Changing a token changes the draws after it, and none at or before it; nor does the edit before it matter."""
    (row,) = bench.sentences(seed=6, lengths=(12,))
    edited = bench.edit(["causal_lm"], [row], [5], ratio=0.999, sampling="argmax")
    for t in range(1, len(row) - 1):
        other = list(row)
        other[t] = row[t] + 1 if row[t] + 1 not in bench.vocabulary.special else row[t] - 1
        again = bench.edit(["causal_lm"], [other], [5], ratio=0.999, sampling="argmax")
        assert torch.equal(again.ids[0, : t + 1], edited.ids[0, : t + 1])
    few = bench.edit(["causal_lm"], [row], [5], ratio=0.4, sampling="argmax")
    assert 0 < few.chosen.sum() < edited.chosen.sum()
    assert torch.equal(few.ids[few.chosen], edited.ids[few.chosen]), "neighbours that were not edited change nothing"


@pytest.mark.parametrize("scope", ["masked", "all"])
@pytest.mark.parametrize("name", ["mlm", "causal_lm", "insert"])
def test_the_vocabulary_head_runs_only_where_it_is_read(bench, name, scope, monkeypatch):
    if not EDITS[name].takes_all:
        scope = "masked"
    model = bench.causal if EDITS[name].generator == "causal" else bench.masked
    seen, plain, head = [], torch.nn.functional.linear, model.get_output_embeddings().weight

    def linear(x, weight, bias=None):
        if weight.data_ptr() == head.data_ptr():
            seen.append(x.shape[:-1])
        return plain(x, weight, bias)

    rows = bench.sentences(seed=7)
    bench.edit([name], rows[:1], [0], scope=scope)  # by now it is known what the model can do
    monkeypatch.setattr(torch.nn.functional, "linear", linear)
    edited = bench.edit([name], rows, list(range(len(rows))), scope=scope)
    filled = sum(len(row) - 1 for row in rows) if scope == "all" else int(edited.chosen.sum())
    assert sum(shape.numel() for shape in seen) == filled
    assert not model.base_model._forward_hooks, "the hook is gone"


def test_an_editor_without_its_model_says_so():
    for name in ("mlm", "insert", "causal_lm"):
        with pytest.raises(InputError, match="need a language model"):
            run(editors=[name])
    for name in ("replace", "insert_random", "delete"):
        run(editors=[name])


# ---- one more


def snippet(heading, language):
    """The first block of code in that language under the heading of the docs."""
    section = DOCS.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)[1]


def test_the_seventh_editor_of_the_docs(monkeypatch):
    """One line in the registry and one class: executed as the docs write them."""
    heading = "A seventh editor"
    line = snippet(heading, "py")
    monkeypatch.setattr(Editor, "registry", dict(Editor.registry))
    for name, facts in eval(f"{{{line}}}", {"EditFacts": config.EditFacts}).items():
        monkeypatch.setitem(EDITS, name, facts)
    monkeypatch.setattr("diffcse.config.method.Edit", Literal[*EDITS])
    exec(snippet(heading, "python"), vars(edits) | {"__name__": "seventh"})
    (seventh,) = set(EDITS) - set(EXAMPLE)
    assert seventh == "swap"
    assert Method(edits=["swap", "mlm"]).edits == ("swap", "mlm")

    x = torch.tensor([[2, 5, 6, 7, 8, 9, 3, 0]]).expand(2000, -1)
    edited = run(editors=["swap"], x=x, real=(x != 0).long(), ratio=0.4)
    assert torch.equal(edited.ids.sort(1).values, x.sort(1).values), "the same tokens"
    assert torch.equal(edited.labels.bool(), edited.ids != x)
    assert (edited.ids[:, [0, 6, 7]] == x[:, [0, 6, 7]]).all()
    assert {tuple(row) for row in edited.ids.tolist()} >= {(2, 6, 5, 7, 8, 9, 3, 0), (2, 5, 6, 8, 7, 9, 3, 0)}
    assert ((edited.ids - x).abs() <= 1).all(), "neighbours only"
    assert edited.labels[:, 1:6].float().mean() == pytest.approx(0.25, abs=0.1)


def test_a_class_without_its_line_in_the_registry():
    with pytest.raises(TypeError, match=r"not in config\.EDITS"):

        class Unlisted(Editor, name="unlisted"):
            pass


def test_every_line_of_the_registry_has_its_class():
    assert set(Editor.registry) == set(EDITS)
