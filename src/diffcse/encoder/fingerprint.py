"""What an encoder is, in one hash: equal exactly where embeddings are.

Results are kept by it. A folder's path or time stamp would not do: training writes other weights to the same place.
"""

from __future__ import annotations

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
    facts = [encoder.pooling, encoder.max_tokens, encoder.normalised, str(encoder.model.device.type)]
    digest.update(json.dumps(facts).encode())
    return digest.hexdigest()
