"""An encoder as one graph, from token ids and mask to the sentence embedding, and the programs that run such graphs.

Pooling, Dense and Normalize layers, and truncation are in the graph. Both axes of its inputs are free.

Shape suffixes: R sentences, T token positions.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffcse.encoder.encode import Encoder, token_batches
from diffcse.errors import InputError
from diffcse.machine import all_cores
from diffcse.method.fast import hidden_states
from diffcse.method.heads import POOLINGS, at_least_float, pool

INPUTS, OUTPUT = ("input_ids", "attention_mask"), "sentence_embedding"
Run = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(ids, mask), both (R, T) int64 -> embeddings (R, E) float32."""


class SentenceGraph(nn.Module):
    """All that `encoder` does after the tokenizer, on padded batches."""

    def __init__(self, encoder: Encoder, *, half: bool = False) -> None:
        super().__init__()
        self.model: Any = copy.deepcopy(encoder.model).cpu().eval()
        if half:
            self.model.set_input_embeddings(_HalfEmbedding(self.model.get_input_embeddings().weight))
        self.tail = copy.deepcopy(encoder.tail).cpu()
        self.pooling, self.normalised, self.width = encoder.pooling, encoder.normalised, encoder.width

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        if self.pooling == "pooler":
            h = self.model(input_ids=input_ids, attention_mask=attention_mask).pooler_output
        else:
            layers = hidden_states(self.model, input_ids, attention_mask, POOLINGS[self.pooling][0], packed=False)
            h = pool(tuple(at_least_float(layer) for layer in layers), attention_mask, self.pooling)
        h = self.tail(h)
        h = F.normalize(h, dim=-1) if self.normalised else h
        return h[:, : self.width]


class _HalfEmbedding(nn.Module):
    """Word vectors kept in float16: a third to a half of a small model's weights."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().half(), requires_grad=False)

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight).float()


def write_onnx(encoder: Encoder, file: Path, *, half: bool = False) -> None:
    """Write the graph of `encoder` to `file`, in one file with its weights.

    Args:
        half: keep word vectors in float16.

    Raises:
        InputError: ONNX is not installed, or torch cannot write this architecture as a graph with free axes.
    """
    need("onnx", "onnx", "onnxscript")
    ids_RT = torch.tensor([[5, 6, 7, 8], [5, 6, 0, 0], [7, 0, 0, 0]])
    mask_RT = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
    axes = {0: torch.export.Dim("rows"), 1: torch.export.Dim("length")}
    try:
        with silent(), torch.inference_mode(False), torch.no_grad():
            program: Any = torch.onnx.export(
                SentenceGraph(encoder, half=half).eval(),
                (ids_RT, mask_RT),
                dynamo=True,
                verbose=False,
                input_names=list(INPUTS),
                output_names=[OUTPUT],
                dynamic_shapes=dict.fromkeys(INPUTS, axes),
            )
            if any(isinstance(size, int) for given in program.model.graph.inputs for size in given.shape):
                raise ValueError("its code fixes the number of rows or tokens")
            program.save(file, external_data=False)
    except OSError:
        raise  # no space, no permission
    except Exception as error:  # the exporter has no single type of error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{type(encoder.model).__name__}: this architecture cannot be written as an ONNX graph: {reason}. "
            "Use --to sentence-transformers or --to static"
        ) from error


def onnx_runner(file: Path) -> Run:
    """What runs an ONNX file by ONNX Runtime on the CPU.

    Raises:
        InputError: ONNX Runtime is not installed.
    """
    need("onnx", "onnxruntime")
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    settings.log_severity_level = 3
    with all_cores():
        session = onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])

    def run(ids_RT: np.ndarray, mask_RT: np.ndarray) -> np.ndarray:
        with all_cores():
            return session.run(None, dict(zip(INPUTS, (ids_RT, mask_RT), strict=True)))[0]

    return run


def openvino_runner(model: Any, **options: Any) -> Run:
    """What runs an OpenVINO model (or its .xml file) on the CPU, in float32 if `options` do not say otherwise.

    Raises:
        InputError: OpenVINO is not installed.
    """
    need("openvino", "openvino")
    import openvino

    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
    settings |= {"INFERENCE_PRECISION_HINT": "f32", **options}
    with all_cores():
        compiled = openvino.Core().compile_model(model, "CPU", settings)

    def run(ids_RT: np.ndarray, mask_RT: np.ndarray) -> np.ndarray:
        with all_cores():
            return compiled([ids_RT, mask_RT])[0]

    return run


def run_sorted(encoder: Encoder, run: Run, tokens: Sequence[np.ndarray], batch_tokens: int) -> np.ndarray:
    """Embeddings of `tokens`, (N, E) float32: longest first, in batches of at most `batch_tokens` padded tokens."""
    result = np.zeros((len(tokens), encoder.width), dtype=np.float32)
    for rows in token_batches([len(ids) for ids in tokens], batch_tokens, packed=False):
        longest = max(len(tokens[row]) for row in rows)
        ids_RT = np.full((len(rows), longest), encoder.tokenizer.pad_token_id or 0, dtype=np.int64)
        mask_RT = np.zeros_like(ids_RT)
        for i, row in enumerate(rows):
            ids_RT[i, : len(tokens[row])] = tokens[row]
            mask_RT[i, : len(tokens[row])] = 1
        result[rows] = run(ids_RT, mask_RT)
    return result


def need(extra: str, *packages: str) -> None:
    """Check that packages of an optional group are installed.

    Raises:
        InputError: one is not; the message has the pip command.
    """
    if missing := next((name for name in packages if find_spec(name) is None), None):
        raise InputError(f'the package {missing} is needed and not installed: pip install "diffcse[{extra}]"')


@contextmanager
def silent(level: int = logging.WARNING) -> Iterator[None]:
    """Within the block, what the exporters log, up to `level`, and warn of is not printed."""
    before = logging.root.manager.disable
    logging.disable(level)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def quantise_onnx(file: Path, output: Path) -> None:
    """Write the graph of `file` with 8-bit weights to `output`.

    Each 32 weights have a scale of their own, and so have each 32 activations, which ONNX Runtime quantises as they
    come. One scale for a whole batch, as `quantize_dynamic` has it, loses ten times as much cosine.
    """
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    rule = DefaultWeightOnlyQuantConfig(block_size=32, is_symmetric=True, accuracy_level=4, bits=8)
    with silent(logging.ERROR):
        quantiser = MatMulNBitsQuantizer(onnx.load(file), algo_config=rule)
        quantiser.process()
        quantiser.model.save_model_to_file(str(output), False)
