"""Text -> a tokenizer -> token ids, once for a whole corpus.

Tokenising a batch takes a good part of a small step's time. So the corpus is tokenised once, into flat memory-mapped
arrays in a cache folder. The folder's name is a hash of the text and the tokenizer, so later runs on both open it.
"""

from __future__ import annotations

import hashlib
import itertools
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from diffcse.errors import InputError
from diffcse.files import is_whole, staged_folder, write_errors, write_manifest
from diffcse.text.corpus import Corpus, default_cache_dir

_SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
_CONTINUED = "##"
_COVERAGE = 0.9999  # share of all characters; the rarest ones become [UNK], or they would fill the vocabulary
_BLOCK = 10_000  # sentences processed at once
_COUNTED = 1 << 22  # ids counted at once
_FORMAT = 1  # part of the cache key: raise it when the layout of the files changes


def train_wordpiece(sentences: Iterable[str], size: int, *, lowercase: bool, positions: int) -> PreTrainedTokenizerFast:
    """A BERT tokenizer of exactly `size` tokens. Equal sentences give equal tokenizers in every process.

    Text is cleaned and split as BERT does it: at white space and punctuation, and around every Chinese character.
    The library's trainer numbers characters in the order of a hash map with a new seed in each process, and breaks
    ties between merges by these numbers. So the characters are given to it in sorted order.

    Args:
        sentences: the text to learn from; it is held in memory.
        size: tokens, special tokens included.
        lowercase: whether the tokenizer lower-cases and strips accents.
        positions: the model's longest input in tokens, to which the tokenizer truncates on request.

    Raises:
        InputError: the sentences have too few different words for `size` tokens.
    """
    sentences = list(sentences)
    core = Tokenizer(models.WordPiece(unk_token=_SPECIAL["unk_token"]))
    core.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    first, continued = _alphabet(core, sentences, size)
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=[*_SPECIAL.values(), *(_CONTINUED + c for c in continued)],
        initial_alphabet=first,
        limit_alphabet=len(first),
        continuing_subword_prefix=_CONTINUED,
        show_progress=False,
    )
    core.train_from_iterator(sentences, trainer)
    vocabulary = core.get_vocab(with_added_tokens=False)
    if len(vocabulary) != size:
        raise InputError(
            f"vocabulary = {size:,}: the text has words for {len(vocabulary):,} tokens only. Give more text, or "
            f"--vocabulary {len(vocabulary)}"
        )
    # A new tokenizer, because the trainer marked the continued characters as special.
    whole = Tokenizer(models.WordPiece(vocabulary, unk_token=_SPECIAL["unk_token"]))
    whole.normalizer, whole.pre_tokenizer = core.normalizer, core.pre_tokenizer
    whole.decoder = decoders.WordPiece()
    start, end = _SPECIAL["cls_token"], _SPECIAL["sep_token"]
    whole.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        pair=f"{start} $A {end} $B:1 {end}:1",
        special_tokens=[(token, vocabulary[token]) for token in (start, end)],
    )
    return PreTrainedTokenizerFast(tokenizer_object=whole, model_max_length=positions, padding_side="right", **_SPECIAL)


def _alphabet(core: Tokenizer, sentences: Sequence[str], size: int) -> tuple[list[str], list[str]]:
    """(characters of the vocabulary, those of them that occur inside words), each sorted."""
    words: Counter[str] = Counter()
    for block in _blocks(sentences):
        words.update(core.normalizer.normalize_str("\n".join(block)).split())
    counts: Counter[str] = Counter()
    inside: Counter[str] = Counter()
    for word, count in words.items():
        for piece, _ in core.pre_tokenizer.pre_tokenize_str(word):
            for character in piece:
                counts[character] += count
            for character in piece[1:]:
                inside[character] += count
    wanted, room = _COVERAGE * counts.total(), size - len(_SPECIAL)
    kept: list[str] = []
    for character, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        room -= 2 if character in inside else 1
        if wanted <= 0 or room < 0:
            break
        wanted -= count
        kept.append(character)
    return sorted(kept), sorted(character for character in kept if character in inside)


def _blocks(sentences: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(sentences)
    while block := list(itertools.islice(iterator, _BLOCK)):
        yield block


@dataclass(frozen=True, eq=False)
class Tokens:
    """A tokenised corpus. Sentence i is ``ids[offsets[i] : offsets[i + 1]]``, without special tokens."""

    ids: npt.NDArray[np.unsignedinteger]
    offsets: npt.NDArray[np.int64]
    prefix: tuple[int, ...]
    """Ids of the special tokens before a sentence."""
    suffix: tuple[int, ...]
    """Ids of the special tokens after a sentence."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def lengths(self, limit: int) -> npt.NDArray[np.int64]:
        """Tokens of each sentence, special tokens included, at most `limit`: (N,)."""
        return np.minimum(np.diff(self.offsets) + len(self.prefix) + len(self.suffix), limit)

    def rows(self, sentences: npt.NDArray[np.integer], length: int) -> npt.NDArray[np.int64]:
        """Token ids of sentences that all have this length according to `lengths`: (R, length)."""
        inner = length - len(self.prefix) - len(self.suffix)
        rows = np.empty((len(sentences), length), dtype=np.int64)
        rows[:, : len(self.prefix)] = self.prefix
        rows[:, length - len(self.suffix) :] = self.suffix
        where = self.offsets[sentences][:, None] + np.arange(inner)
        rows[:, len(self.prefix) : len(self.prefix) + inner] = self.ids[where]
        return rows


def occurrences(ids_N: npt.NDArray[np.integer], vocabulary_size: int) -> npt.NDArray[np.int64]:
    """How often each token occurs: (V,). Ids are counted in parts, because counting converts each to eight bytes."""
    counts_V = np.zeros(vocabulary_size, dtype=np.int64)
    for first in range(0, len(ids_N), _COUNTED):
        counts_V += np.bincount(ids_N[first : first + _COUNTED], minlength=vocabulary_size)
    return counts_V


def tokenise(corpus: Corpus, tokenizer: PreTrainedTokenizerBase, cache_dir: Path | None = None) -> Tokens:
    """All sentences of `corpus` as token ids, from the cache if they are in it.

    Args:
        cache_dir: parent of the cache folders; None: the folder beside those of the corpora. It needs eight bytes a
            sentence and two bytes a token (four, if the vocabulary has more than 65,536 tokens).

    Raises:
        InputError: the tokenizer is not a fast one or makes no token, or the cache cannot be written.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise InputError(f"{tokenizer.name_or_path}: has no tokenizer.json. Give a fast tokenizer, which has one")
    backend.no_truncation()
    backend.no_padding()
    sample = next((s for s in corpus if backend.encode(s, add_special_tokens=False).ids), corpus[0])
    prefix, suffix = _special_around(backend, sample)
    kind = np.dtype(np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32)
    key = hashlib.sha256(f"{_FORMAT} {corpus.sha256} {backend.to_str()}".encode()).hexdigest()[:32]
    folder = (default_cache_dir().parent / "tokens" if cache_dir is None else cache_dir) / key
    if not is_whole(folder):
        _write(corpus, backend, kind, folder)
    offsets = np.load(folder / "offsets.npy", mmap_mode="r", allow_pickle=False)
    if offsets[-1] == 0:
        name = tokenizer.name_or_path or "tokenizer"
        raise InputError(f"{name}: makes no token of any sentence of this text. Give another tokenizer")
    return Tokens(np.memmap(folder / "ids.bin", dtype=kind, mode="r"), offsets, prefix, suffix)


def _write(corpus: Corpus, backend: Tokenizer, kind: npt.DTypeLike, folder: Path) -> None:
    """Write ids and offsets of all sentences to `folder`."""
    with write_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        ends = array("q", [0])
        with staged_folder(folder) as staging:
            with (staging / "ids.bin").open("wb") as file:
                for block in _blocks(corpus):
                    for encoding in backend.encode_batch_fast(block, add_special_tokens=False):
                        file.write(np.asarray(encoding.ids, dtype=kind).tobytes())
                        ends.append(ends[-1] + len(encoding.ids))
            np.save(staging / "offsets.npy", np.frombuffer(ends, dtype=np.int64))
            write_manifest(staging)


def _special_around(backend: Tokenizer, sentence: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids of the special tokens (before, after) a sentence, by the example of `sentence`."""
    inner = backend.encode(sentence, add_special_tokens=False).ids
    whole = backend.encode(sentence).ids
    for start in range(len(whole) - len(inner) + 1):
        if whole[start : start + len(inner)] == inner:
            return tuple(whole[:start]), tuple(whole[start + len(inner) :])
    return (), ()
