"""Text -> a tokenizer -> token ids, once for a whole corpus.

To tokenise a batch takes as long as a good part of a small step. So the corpus is tokenised once, into flat
memory-mapped arrays in a cache folder that belongs to the text and the tokenizer, by their hashes: whoever asks for
the same two again, in this run or another, opens what is there.
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
_COVERAGE = 0.9999  # of all characters; the rarest ones are left to [UNK], or they would fill the vocabulary
_BLOCK = 10_000  # sentences handled at once
_COUNTED = 1 << 22  # ids counted at once
_FORMAT = 1  # part of the cache key: raise it when the files change


def train_wordpiece(sentences: Iterable[str], size: int, *, lowercase: bool, positions: int) -> PreTrainedTokenizerFast:
    """A BERT tokenizer of exactly `size` tokens, the same for the same sentences whenever it is made.

    Text is cleaned and split as BERT does it: at white space and punctuation, and around every Chinese character.
    Left to itself, the trainer numbers the characters in the order of a hash map that is seeded anew in each process,
    and breaks ties between merges by these numbers; so the characters are handed to it, sorted.

    Args:
        sentences: what it learns from; held in memory.
        size: tokens, special ones included.
        positions: the model's longest input, which the tokenizer will cut to when asked.

    Raises:
        InputError: the sentences have too few different words for so many tokens.
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
            f"the text has words for a vocabulary of {len(vocabulary):,} tokens only, not {size:,}: "
            f"give more text, or --vocabulary {len(vocabulary)}"
        )
    # Built anew: the trainer marked the continued characters as special.
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
    """(characters to know, those of them that are met inside words), each sorted."""
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
    """Special tokens that the tokenizer puts before a sentence."""
    suffix: tuple[int, ...]
    """And after it."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def lengths(self, limit: int) -> npt.NDArray[np.int64]:
        """Tokens of each sentence, special ones included, when cut to `limit`: (N,)."""
        return np.minimum(np.diff(self.offsets) + len(self.prefix) + len(self.suffix), limit)

    def rows(self, sentences: npt.NDArray[np.integer], length: int) -> npt.NDArray[np.int64]:
        """Sentences of one `length` (as `lengths` tells it) as a matrix of token ids without padding: (R, length)."""
        inner = length - len(self.prefix) - len(self.suffix)
        rows = np.empty((len(sentences), length), dtype=np.int64)
        rows[:, : len(self.prefix)] = self.prefix
        rows[:, length - len(self.suffix) :] = self.suffix
        where = self.offsets[sentences][:, None] + np.arange(inner)
        rows[:, len(self.prefix) : len(self.prefix) + inner] = self.ids[where]
        return rows


def occurrences(ids_N: npt.NDArray[np.integer], vocabulary_size: int) -> npt.NDArray[np.int64]:
    """How often each token occurs: (V,). In parts: all ids at once would be converted to eight bytes each."""
    counts_V = np.zeros(vocabulary_size, dtype=np.int64)
    for first in range(0, len(ids_N), _COUNTED):
        counts_V += np.bincount(ids_N[first : first + _COUNTED], minlength=vocabulary_size)
    return counts_V


def tokenise(corpus: Corpus, tokenizer: PreTrainedTokenizerBase, cache_dir: Path | None = None) -> Tokens:
    """All sentences of `corpus` as token ids; what the cache holds is not made again.

    Args:
        cache_dir: where cache folders are kept; the folder beside the corpora's when None. Needs two bytes a token
            (four, if there are more than 65,536), and eight a sentence.

    Raises:
        InputError: no fast tokenizer, or a cache that cannot be written.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise InputError(f"{tokenizer.name_or_path}: only fast tokenizers (with a tokenizer.json) can be used here")
    backend.no_truncation()
    backend.no_padding()
    some = next((s for s in corpus if backend.encode(s, add_special_tokens=False).ids), corpus[0])
    prefix, suffix = _around(backend, some)
    kind = np.dtype(np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32)
    key = hashlib.sha256(f"{_FORMAT} {corpus.sha256} {backend.to_str()}".encode()).hexdigest()[:32]
    folder = (default_cache_dir().parent / "tokens" if cache_dir is None else cache_dir) / key
    if not is_whole(folder):
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
    offsets = np.load(folder / "offsets.npy", mmap_mode="r", allow_pickle=False)
    if offsets[-1] == 0:
        raise InputError(f"{tokenizer.name_or_path or 'tokenizer'}: makes no token of any sentence of this text")
    return Tokens(np.memmap(folder / "ids.bin", dtype=kind, mode="r"), offsets, prefix, suffix)


def _around(backend: Tokenizer, sentence: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids that the tokenizer puts before and after a sentence, seen from what it makes of one."""
    inner = backend.encode(sentence, add_special_tokens=False).ids
    whole = backend.encode(sentence).ids
    for start in range(len(whole) - len(inner) + 1):
        if whole[start : start + len(inner)] == inner:
            return tuple(whole[:start]), tuple(whole[start + len(inner) :])
    return (), ()
