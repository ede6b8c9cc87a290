"""x -> x′ -> x″ -> r on six tokens, worked by hand, and the statistics of masking."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from diffcse.method.edits import Draw, Tools, Vocabulary, edit, mask_tokens

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
