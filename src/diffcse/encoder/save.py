"""What ships: the encoder alone, as a plain sentence-transformers folder that also loads in transformers.

No projector, discriminator or pooler head goes with it, and its sequence limit is the checkpoint's own: the 32
tokens of training are the training collator's business. The folder is written in sentence-transformers' classic
layout, which every release since 2.0 reads.
"""

from __future__ import annotations

from pathlib import Path

from diffcse.encoder.encode import Encoder
from diffcse.files import staged_folder, write_json, write_text
from diffcse.method.parts import quiet

MODULES = "modules.json"
POOLING = "1_Pooling"
LIMITS = "sentence_bert_config.json"
SETTINGS = "config_sentence_transformers.json"

# Our names for the poolings, and the flags that say the same in a folder.
POOLING_FLAGS = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens"}
_OTHER_FLAGS = ("pooling_mode_max_tokens", "pooling_mode_mean_sqrt_len_tokens")


def save(encoder: Encoder, folder: Path, card: str) -> None:
    """Write `encoder` to `folder` in one indivisible step, `card` (Markdown) as its README.md.

    The folder loads with `SentenceTransformer(folder)`, `AutoModel.from_pretrained(folder)` and `load(folder)`.

    Raises:
        InputError: the folder cannot be written (disk full, no permission).
    """
    kinds = {"": "Transformer", POOLING: "Pooling", **({"2_Normalize": "Normalize"} if encoder.normalised else {})}
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(kinds.items())
    ]
    flags = {flag: name == encoder.pooling for name, flag in POOLING_FLAGS.items()} | dict.fromkeys(_OTHER_FLAGS, False)
    with staged_folder(folder) as staging:
        with quiet():
            # A fast tokenizer remembers how it was last called, and would write that down: training's 32 tokens.
            backend = getattr(encoder.tokenizer, "backend_tokenizer", None)
            if backend is not None:
                backend.no_truncation()
                backend.no_padding()
            encoder.model.save_pretrained(staging)
            encoder.tokenizer.save_pretrained(staging)
        write_json(staging / MODULES, modules)
        write_json(staging / POOLING / "config.json", {"word_embedding_dimension": encoder.width, **flags})
        write_json(staging / LIMITS, {"max_seq_length": encoder.max_tokens, "do_lower_case": False})
        write_json(staging / SETTINGS, {"similarity_fn_name": "cosine"})
        write_text(staging / "README.md", card)
        for path in kinds:
            (staging / path).mkdir(exist_ok=True)
