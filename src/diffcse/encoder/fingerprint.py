"""What an encoder is, in one hash: equal exactly where embeddings are.

Results are kept by it. A folder's path or time stamp would not do: training writes other weights to the same place.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json

from diffcse.encoder.encode import Encoder


def fingerprint(encoder: Encoder) -> str:
    """SHA-256 (hex) over weights, architecture, tokenizer, pooling, limit and normalisation, as they are in memory."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.model.state_dict().items()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {tuple(array.shape)}\n".encode())
        digest.update(array.float().numpy().tobytes() if array.is_floating_point() else array.numpy().tobytes())
    config = encoder.model.config.to_dict()
    # Where it was loaded from and by which release says nothing of what it computes.
    kept = {key: value for key, value in config.items() if key not in ("_name_or_path", "transformers_version")}
    digest.update(json.dumps(kept, sort_keys=True, default=str).encode())
    tokenizer = encoder.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        rules = json.loads(backend.to_str())
        # How it was last called, which it remembers, is given anew with every call.
        rules.update(truncation=None, padding=None)
    else:
        rules = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    digest.update(json.dumps(rules, sort_keys=True, default=str).encode())
    # Every other field, so that one added later counts from its first day.
    facts = {
        field.name: getattr(encoder, field.name)
        for field in dataclasses.fields(encoder)
        if field.name not in ("model", "tokenizer", "note")
    }
    facts["device"] = str(encoder.model.device.type)
    digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
    return digest.hexdigest()
