"""The identity of an encoder in one hash: two encoders have the same hash if they make the same embeddings.

Stored results are found by it. A folder's path or time stamp is not enough: training writes new weights to the same
place.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json

from diffcse.encoder.encode import Encoder


def fingerprint(encoder: Encoder, *, by_device: bool = True) -> str:
    """SHA-256 (hex) over weights, architecture, tokenizer, pooling, limit and normalisation, as they are in memory.

    Embeddings on a GPU differ from those of the CPU by rounding, so the device counts too, unless `by_device` is False.
    """
    digest = hashlib.sha256()
    states = {**encoder.model.state_dict(), **encoder.tail.state_dict(prefix="tail.")}
    for name, tensor in sorted(states.items()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {tuple(array.shape)}\n".encode())
        digest.update(array.float().numpy().tobytes() if array.is_floating_point() else array.numpy().tobytes())
    config = encoder.model.config.to_dict()
    # The place and the release it was loaded with do not change what it computes.
    kept = {key: value for key, value in config.items() if key not in ("_name_or_path", "transformers_version")}
    digest.update(json.dumps(kept, sort_keys=True, default=str).encode())
    tokenizer = encoder.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        rules = json.loads(backend.to_str())
        # These are options of the last call; every call sets them again.
        rules.update(truncation=None, padding=None)
    else:
        rules = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    digest.update(json.dumps(rules, sort_keys=True, default=str).encode())
    # All other fields, so that a new field counts without a change here.
    facts = {
        field.name: getattr(encoder, field.name)
        for field in dataclasses.fields(encoder)
        if field.name not in ("model", "tokenizer", "note")
    }
    if by_device:
        facts["device"] = str(encoder.model.device.type)
    digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
    return digest.hexdigest()
