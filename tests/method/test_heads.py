import torch

from diffcse.method.heads import pool, projector, token_head

HIDDEN = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [100.0, 100.0]], [[5.0, 6.0], [7.0, 8.0], [9.0, 10.0]]])
MASK = torch.tensor([[1, 1, 0], [1, 1, 1]])


def test_pooling_by_hand():
    assert pool(HIDDEN, MASK, "cls").tolist() == [[1, 2], [5, 6]]
    assert pool(HIDDEN, MASK, "mean").tolist() == [[2, 3], [7, 8]]


def test_batchnorm_projector_by_hand():
    """Linear - BatchNorm - ReLU - Linear - BatchNorm without weights, statistics over all rows of the batch."""
    torch.manual_seed(0)
    g = projector("batchnorm", 3).double().train()
    h = torch.randn(6, 3, dtype=torch.float64)

    def normalise(x):
        return (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()

    inner = torch.relu(normalise(h @ g[0].weight.T) * g[1].weight + g[1].bias)
    torch.testing.assert_close(g(h), normalise(inner @ g[3].weight.T))
    assert [tuple(p.shape) for p in g.parameters()] == [(6, 3), (6,), (6,), (3, 6)]


def test_other_projectors():
    torch.manual_seed(0)
    h = torch.randn(4, 3)
    g = projector("tanh", 3)
    torch.testing.assert_close(g(h), torch.tanh(h @ g[0].weight.T + g[0].bias))
    assert projector("none", 3)(h) is h


def test_token_head():
    assert token_head(5)(torch.zeros(2, 3, 5)).shape == (2, 3, 2)
