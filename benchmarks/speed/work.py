"""The number of operations in a step, and the highest speed of matrix products on this machine.

Counted are the matrix products of the networks on real tokens; a multiply-add is two operations. Trained networks count
forward once and backward twice. The frozen generator counts forward, with its vocabulary head at masked positions only.
Padding, recomputation and everything else count as nothing. All implementations are credited with the same work, even
if they skip a part of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


def encoder_flops(config: Any, lengths: Sequence[int]) -> int:
    """One forward pass over sentences of so many tokens.

    A layer has four products of H x H and two of H x I for each token, and for each sentence QKᵀ and its product with
    V, both over all pairs of tokens.
    """
    width = config.hidden_size
    inner = config.hidden_dim if config.model_type == "distilbert" else config.intermediate_size
    tokens, pairs = sum(lengths), sum(length * length for length in lengths)
    layer = 2 * tokens * (4 * width * width + 2 * width * inner) + 4 * pairs * width
    return config.num_hidden_layers * layer


def vocabulary_head_flops(config: Any, positions: float) -> int:
    """A masked language model's head: H x H, then H x V."""
    return round(2 * positions * config.hidden_size * (config.hidden_size + config.vocab_size))


def step_flops(encoder: Any, generator: Any, lengths: Sequence[int], masked: float) -> int:
    """One training step of DiffCSE with the paper's choices.

    Args:
        encoder: configuration of f, which is also D's.
        generator: that of G.
        lengths: real tokens of each sentence; every one is there in two views.
        masked: positions in both views together that G fills.
    """
    width, batch, both = encoder.hidden_size, len(lengths), [*lengths, *lengths]
    projector = 2 * 2 * batch * (2 * width * 2 * width)
    cosines = 2 * batch * batch * width
    token_head = 2 * sum(both) * width * 2
    trained = 2 * encoder_flops(encoder, both) + projector + cosines + token_head
    return 3 * trained + encoder_flops(generator, both) + vocabulary_head_flops(generator, masked)


def gemm_peak(
    dtype: torch.dtype, device: torch.device, shapes: Sequence[tuple[int, int, int]], repeats: int = 4
) -> dict[str, Any]:
    """The fastest product of (m, k) by (k, n): operations a second, its shape and the library that did it.

    In fp32 on a CPU both of torch's ways are tried, the usual one (MKL) and oneDNN; they differ by up to a factor of
    two on processors that are not Intel's.
    """
    best: dict[str, Any] = {"flops_per_s": 0.0}
    for m, k, n in shapes:
        x, w = torch.randn(m, k, device=device, dtype=dtype), torch.randn(n, k, device=device, dtype=dtype)
        for library, product in _products(x, w).items():
            product()
            for _ in range(repeats):
                _wait(device)
                began = time.perf_counter()
                product()
                _wait(device)
                rate = 2 * m * k * n / (time.perf_counter() - began)
                if rate > best["flops_per_s"]:
                    best = {"flops_per_s": rate, "shape": [m, k, n], "library": library}
    return best


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

Peaks = dict[str, dict[str, Any]]


def gemm_peaks(
    names: Iterable[str], config: Any, tokens: int, device: torch.device, repeats: int, before: Peaks | None = None
) -> Peaks:
    """The fastest product in each precision that a name ends with, or what was found `before` if faster."""
    shapes = model_shapes(config, tokens, device)
    used = sorted({name[-4:] for name in names} & set(DTYPES))
    found = {dtype: gemm_peak(DTYPES[dtype], device, shapes, repeats) for dtype in used}
    if before is None:
        return found
    return {dtype: max(peak, before[dtype], key=lambda one: one["flops_per_s"]) for dtype, peak in found.items()}


def said(peaks: Peaks) -> dict[str, str]:
    """The peaks in words, for a table's facts."""
    return {
        f"GEMM peak {dtype}": f"{peak['flops_per_s'] / 1e9:.0f} GFLOP/s ({' x '.join(map(str, peak['shape']))}, "
        f"{peak['library']})"
        for dtype, peak in peaks.items()
    }


def _products(x: Tensor, w: Tensor) -> dict[str, Callable[[], Tensor]]:
    ways: dict[str, Callable[[], Tensor]] = {"torch": lambda: torch.nn.functional.linear(x, w)}
    if x.device.type == "cpu" and x.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        ways["oneDNN"] = lambda: torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], "")
    return ways


def model_shapes(config: Any, tokens: int, device: torch.device) -> list[tuple[int, int, int]]:
    """A few square products, and those of an encoder's linear layers on so many tokens."""
    width, inner = config.hidden_size, config.intermediate_size
    squares = (1024, 2048) if device.type == "cpu" else (2048, 4096, 8192)
    return [*((size, size, size) for size in squares), (tokens, width, inner), (tokens, inner, width)]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
