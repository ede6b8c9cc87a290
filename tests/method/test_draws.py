import torch
from hypothesis import given
from hypothesis import strategies as st

from diffcse.method.draws import integers, key, uniforms

WORD = (1 << 64) - 1


def mix(x):
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & WORD
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & WORD
    return x ^ (x >> 31)


def test_key_is_splitmix64():
    # First outputs of SplitMix64 seeded with 0 and with 1 (state + golden ratio, finalised).
    assert key(0) == mix(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF
    assert key(1) == mix(0x9E3779B97F4A7C16)


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**40), st.integers(0, 2**41), st.integers(0, 500))
def test_tensor_arithmetic_equals_exact_integers(seed, step, row, position):
    """int64 products wrap and shifts drag the sign; neither may show."""
    golden = 0x9E3779B97F4A7C15
    expected = mix((mix((row ^ key(seed, step)) + golden & WORD) ^ position) + golden & WORD)
    width = position + 1
    rows = torch.tensor([row])
    assert uniforms((seed, step), rows, width)[0, position].item() == (expected >> 40) / 2**24
    assert integers((seed, step), rows, width, 1000)[0, position].item() == (expected >> 1) % 1000


def test_numbers_belong_to_their_address():
    rows = torch.arange(8)
    whole = uniforms((7, 3), rows, 20)
    assert torch.equal(uniforms((7, 3), rows, 12), whole[:, :12]), "padding must not matter"
    assert torch.equal(uniforms((7, 3), rows[5:], 20), whole[5:]), "sharding must not matter"
    for other in ((8, 3), (7, 4), (3, 7), (7, 3, 0)):
        assert (uniforms(other, rows, 20) != whole).float().mean() > 0.99


def test_uniform_and_uncorrelated():
    u = uniforms((1, 2), torch.arange(2000), 50)
    assert u.min() >= 0
    assert u.max() < 1
    counts = torch.histc(u, 20, 0, 1)
    chi2 = ((counts - u.numel() / 20) ** 2 / (u.numel() / 20)).sum()
    assert chi2 < 43.8, "19 degrees of freedom, p = 0.001"
    for a, b in ((u[:-1], u[1:]), (u[:, :-1], u[:, 1:])):
        correlation = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]
        assert abs(correlation) < 0.015
