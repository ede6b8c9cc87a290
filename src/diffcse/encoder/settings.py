"""What a sentence-transformers folder states about the use of its encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Target = Literal["onnx", "onnx-int8", "openvino", "static", "sentence-transformers"]
"""What `export` writes an encoder for."""


@dataclass(frozen=True)
class Settings:
    """Prompts, truncation and the like. Training hands them on unchanged."""

    prompts: Mapping[str, str] = field(default_factory=dict)
    """Texts that are put before a sentence, by name."""
    default_prompt: str | None = None
    """The name of the prompt that is used if none is asked for."""
    truncate_dim: int | None = None
    """Only this many numbers of each embedding are kept, the first ones."""
    similarity: str = "cosine"
    """How embeddings are to be compared: cosine, dot, euclidean or manhattan."""
    max_tokens: int | None = None
    """The folder's own limit of tokens; None if it states none."""

    @property
    def prompt(self) -> str:
        """The text put before every sentence by default; empty if there is none."""
        return "" if self.default_prompt is None else self.prompts[self.default_prompt]
