"""An encoder -> a folder for another program: ONNX Runtime, OpenVINO, model2vec, sentence-transformers.

Before a folder appears, what it computes is compared with the encoder, on real sentences. A float32 folder that differs
is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import numpy as np

from diffcse.config import EncoderPooling
from diffcse.encoder.encode import BATCH_TOKENS, Encoder
from diffcse.encoder.fingerprint import fingerprint
from diffcse.encoder.graph import (
    INPUTS,
    OUTPUT,
    Run,
    need,
    onnx_runner,
    openvino_runner,
    quantise_onnx,
    run_sorted,
    write_onnx,
)
from diffcse.encoder.save import save, save_tokenizer
from diffcse.encoder.settings import Target
from diffcse.encoder.share import CARD, forces_licence, stated_licence
from diffcse.encoder.similarity import as_encoder, to_unit
from diffcse.errors import InputError
from diffcse.files import staged_folder, write_json, write_text
from diffcse.text.stdlib import read_stdlib
from diffcse.text.strings import iter_strings

LEAST = 0.999
"""The least cosine to the encoder that a float32 folder must reach on every sentence."""
EXACT = ("onnx", "openvino", "sentence-transformers")
"""Targets that compute what the encoder computes."""
SAMPLE = 500
STATE = "export.json"
_STATIC_WIDTH, _SIF = 256, 1e-4
"""model2vec's own defaults: dimensions, and the constant that makes frequent tokens count less."""

Encode = Callable[[Sequence[str]], np.ndarray]


@dataclass(frozen=True)
class Exported:
    """A folder that was written, and how well it agrees with the encoder."""

    folder: Path
    to: Target
    least: float | None
    """The least cosine between its embedding of a sentence and the encoder's; None for "static", whose embeddings have
    another width."""
    mean: float | None
    sentences: int
    bytes: int
    """All files of the folder."""
    encode: Encode
    """Embeds by the written files: texts -> (N, E) float32."""


def export(
    model: Encoder | str | Path,
    output: str | Path,
    to: Target = "onnx",
    *,
    texts: Iterable[str] | None = None,
    pooling: EncoderPooling | None = None,
) -> Exported:
    """Write `model` as a folder for another program, after a comparison with the encoder on real sentences.

    "onnx", "onnx-int8" and "openvino" are one graph. It goes from `input_ids` and `attention_mask`, both (rows, length)
    int64, to `sentence_embedding`, (rows, width) float32. `tokenizer.json` beside it cuts and pads as the encoder does.
    `export.json` states prompts, limit, width and the comparison.

    Args:
        model: an encoder, or what `load` takes.
        output: a new or empty folder.
        to: the program. "static" has one vector for each token, for model2vec and sentence-transformers.
        texts: sentences to compare on, the first 500 that are not blank; the standard library's documentation if None.
        pooling: as in `load`, if `model` is not an encoder.

    Raises:
        InputError: an unknown target, a package that is missing, an architecture that cannot be exported, a folder that
            is not empty, or a float32 folder whose embeddings have a cosine below 0.999 to the encoder's.
    """
    if to not in get_args(Target):
        raise InputError(f"to = {to!r}: must be one of {', '.join(get_args(Target))}")
    need(*_NEEDS[to])
    output = Path(output)
    if output.is_dir() and any(output.iterdir()):
        raise InputError(f"{output}: is not empty. Give a new folder as --output.")
    sample = [] if to == "static" else comparison_texts(texts)
    encoder = as_encoder(model, pooling)
    with staged_folder(output) as folder:
        encode = _WRITERS[to](encoder, folder)
        least, mean = (None, None) if to == "static" else agreement(encoder(sample), encode(sample))
        if to in EXACT and not (least or 0.0) >= LEAST:
            raise InputError(
                f"{output}: not written, because its embeddings differ from the encoder's: least cosine {least:.4f} on "
                f"{len(sample)} sentences, where {LEAST} is required"
            )
        compared = {"sentences": len(sample), "least_cosine": least, "mean_cosine": mean}
        write_json(folder / STATE, _state(encoder, to) | {"comparison": compared})
        if to != "sentence-transformers":
            write_text(folder / CARD, _licence(encoder) + _CARD[to])
        size = folder_bytes(folder)
    return Exported(output, to, least, mean, len(sample), size, encode)


def folder_bytes(folder: Path) -> int:
    """The size of all files in `folder`."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def comparison_texts(texts: Iterable[str] | None) -> list[str]:
    """The first sentences that are not blank; by default of Python's documentation, a fifth of them whole docstrings.

    Raises:
        InputError: there are none.
    """
    if texts is None:
        docstrings = read_stdlib().docstrings
        chosen = np.random.default_rng(0).permutation(len(docstrings))[:SAMPLE]
        texts = (" ".join(docstrings[i].sentences[: None if n % 5 == 0 else 1]) for n, i in enumerate(chosen))
    sample = list(islice((text for text in iter_strings(texts) if text.strip()), SAMPLE))
    if not sample:
        raise InputError("texts: no sentence to compare on. Give at least one that is not blank")
    return sample


def agreement(wanted: np.ndarray, rows: np.ndarray) -> tuple[float, float]:
    """(least, mean) cosine of rows with their counterparts, both (N, E)."""
    if wanted.shape != rows.shape or not np.isfinite(rows).all():
        return -1.0, -1.0
    cosines = (to_unit(wanted.astype(np.float64)) * to_unit(rows.astype(np.float64))).sum(1)
    return round(float(cosines.min()), 6), round(float(cosines.mean()), 6)


# ---- one function for each target: writes the files, returns what embeds by them ------------------------------------


def _onnx(encoder: Encoder, folder: Path) -> Encode:
    write_onnx(encoder, folder / "model.onnx")
    return _by_graph(encoder, folder, onnx_runner(folder / "model.onnx"))


def _onnx_int8(encoder: Encoder, folder: Path) -> Encode:
    write_onnx(encoder, folder / "float.onnx", half=True)
    quantise_onnx(folder / "float.onnx", folder / "model.onnx")
    (folder / "float.onnx").unlink()
    return _by_graph(encoder, folder, onnx_runner(folder / "model.onnx"))


def _openvino(encoder: Encoder, folder: Path) -> Encode:
    import openvino

    write_onnx(encoder, folder / "model.onnx")
    openvino.save_model(openvino.Core().read_model(folder / "model.onnx"), folder / "model.xml")  # weights in float16
    (folder / "model.onnx").unlink()
    return _by_graph(encoder, folder, openvino_runner(folder / "model.xml"))


def _by_graph(encoder: Encoder, folder: Path, run: Run) -> Encode:
    """Write the tokenizer, and embed by it and `run`."""
    tokenizer = _write_tokenizer(encoder, folder)

    def encode(texts: Sequence[str]) -> np.ndarray:
        encoded = tokenizer.encode_batch_fast([encoder.settings.prompt + text for text in texts])
        tokens = [np.array(item.ids[: sum(item.attention_mask)]) for item in encoded]
        return run_sorted(encoder, run, tokens, BATCH_TOKENS)

    return encode


def _write_tokenizer(encoder: Encoder, folder: Path) -> Any:
    """Write a tokenizer.json that cuts and pads; return it as an object of the library tokenizers."""
    from tokenizers import Tokenizer

    theirs = encoder.tokenizer
    if not hasattr(theirs, "backend_tokenizer"):
        raise InputError(f"{type(theirs).__name__}: has no tokenizer.json, which other programs need. Convert it first")
    save_tokenizer(theirs, folder)
    tokenizer = Tokenizer.from_str(theirs.backend_tokenizer.to_str())
    tokenizer.enable_truncation(encoder.max_tokens)
    tokenizer.enable_padding(pad_id=theirs.pad_token_id, pad_token=theirs.pad_token)
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def _static(encoder: Encoder, folder: Path) -> Encode:
    """One vector for each token, as model2vec makes them: embed the token alone, PCA, and weigh by rank (Zipf, SIF).

    model2vec's own code for this cannot be installed beside transformers 5; the folder is written by it.
    """
    from model2vec import StaticModel
    from sklearn.decomposition import PCA
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(encoder.tokenizer.backend_tokenizer.to_str())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    size = max(tokenizer.get_vocab().values()) + 1
    if size != tokenizer.get_vocab_size():
        raise InputError(f"static: the tokenizer's ids have gaps ({tokenizer.get_vocab_size()} tokens, {size} ids)")
    some = encoder.tokenizer("a", return_special_tokens_mask=True)
    first = some["special_tokens_mask"].index(0)
    before, after = some["input_ids"][:first], some["input_ids"][first + 1 :]
    with encoder.ready() as run:
        vectors = run([np.array([*before, token, *after], dtype=np.int32) for token in range(size)], BATCH_TOKENS)
    vectors = PCA(min(_STATIC_WIDTH, *vectors.shape), random_state=0).fit_transform(vectors)
    share = 1 / np.arange(2, size + 2)
    vectors *= (_SIF / (_SIF + share / share.sum()))[:, None]
    config = {"model_type": "model2vec", "architectures": ["StaticModel"], "hidden_dim": vectors.shape[1]}
    static = StaticModel(vectors.astype(np.float16), tokenizer, config, normalize=True)
    static.save_pretrained(folder)
    return lambda texts: static.encode(list(texts)).astype(np.float32)


def _sentence_transformers(encoder: Encoder, folder: Path) -> Encode:
    from sentence_transformers import SentenceTransformer

    save(encoder, folder, _licence(encoder) + _CARD["sentence-transformers"])
    library = SentenceTransformer(str(folder), device="cpu")
    return lambda texts: library.encode(list(texts), show_progress_bar=False)


def _licence(encoder: Encoder) -> str:
    """The front matter of a card, if the encoder's own card states a licence that the weights must keep."""
    folder = encoder.model.name_or_path
    licence = stated_licence(Path(folder)) if folder else None
    return f"---\nlicense: {licence}\n---\n\n" if forces_licence(licence) else ""


_WRITERS: dict[Target, Callable[[Encoder, Path], Encode]] = {
    "onnx": _onnx,
    "onnx-int8": _onnx_int8,
    "openvino": _openvino,
    "static": _static,
    "sentence-transformers": _sentence_transformers,
}
_NEEDS: dict[Target, tuple[str, ...]] = {
    "onnx": ("onnx", "onnx", "onnxscript", "onnxruntime"),
    "onnx-int8": ("onnx", "onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino", "onnx", "onnxscript", "openvino"),
    "static": ("static", "model2vec"),
    "sentence-transformers": ("onnx",),
}
"""The extra of each target, then its packages."""


def _state(encoder: Encoder, to: Target) -> dict[str, Any]:
    """What a program must know that runs the files of `to`."""
    settings = encoder.settings
    graph = {"inputs": list(INPUTS), "output": OUTPUT} if to in ("onnx", "onnx-int8", "openvino") else {}
    return {
        "format": to,
        **graph,
        "width": encoder.width,
        "max_tokens": encoder.max_tokens,
        "pooling": encoder.pooling,
        "normalised": encoder.normalised,
        "similarity": settings.similarity,
        "prompts": dict(settings.prompts),
        "default_prompt": settings.prompt,
        "encoder": fingerprint(encoder),
    }


_GRAPH_CARD = """\
# A sentence encoder for {program}

`{file}` goes from `input_ids` and `attention_mask` to `sentence_embedding`. `tokenizer.json` cuts and pads.
`export.json` states width, limit and prompts. Put `default_prompt` before each text.

```python
import json
import numpy as np
{imports}
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("tokenizer.json")
prompt = json.load(open("export.json", encoding="utf-8"))["default_prompt"]
batch = tokenizer.encode_batch([prompt + text for text in ["A sentence.", "Another one."]])
ids = np.array([item.ids for item in batch], dtype=np.int64)
mask = np.array([item.attention_mask for item in batch], dtype=np.int64)
{run}
```
"""
_ONNX_CARD = _GRAPH_CARD.format(
    program="ONNX Runtime",
    file="model.onnx",
    imports="import onnxruntime",
    run='session = onnxruntime.InferenceSession("model.onnx")\n'
    'embeddings = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]',
)
_LIBRARY_CARD = """\
# A sentence encoder for sentence-transformers

```python
from sentence_transformers import SentenceTransformer

embeddings = SentenceTransformer("this folder").encode(["A sentence.", "Another one."])
```
"""
_CARD: dict[Target, str] = {
    "onnx": _ONNX_CARD,
    "onnx-int8": _ONNX_CARD,
    "openvino": _GRAPH_CARD.format(
        program="OpenVINO",
        file="model.xml",
        imports="import openvino",
        run='model = openvino.Core().compile_model("model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})\n'
        "embeddings = model([ids, mask])[0]",
    ),
    "static": _LIBRARY_CARD.replace("A sentence encoder for", "Token vectors for model2vec and"),
    "sentence-transformers": _LIBRARY_CARD,
}
