"""Plain text: bytes -> blocks of whole lines -> lines -> sentences.

What happens to a line, and nothing else does:

- it ends at ``\\n``, ``\\r\\n`` or a lone ``\\r``; every other Unicode line break counts as white space;
- where asked for, running prose is split into sentences;
- each is put into Unicode normal form C, so that one word has one spelling in bytes;
- each run of white space (tabs, no-break spaces, U+2028, ...) becomes one space, and both ends are stripped.
"""

from __future__ import annotations

import difflib
import shlex
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import sentencex

from diffcse.errors import InputError
from diffcse.text.sources import PACKED, open_unpacked, shell

BLOCK_BYTES = 1 << 18

_BYTE_ORDER_MARKS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)


def normalise(line: str) -> str:
    """Unicode normal form C, runs of white space made one space, ends stripped; letter case stays.

    >>> normalise("  Cafe\\u0301\\u00a0\\t society ")
    'Café society'
    """
    return " ".join(unicodedata.normalize("NFC", line).split())


def read_blocks(path: Path, longest: int) -> Iterator[bytes]:
    """Whole lines, about a block of them at a time, line ends included; the byte order mark is dropped.

    A line of more than `longest` bytes comes cut off: the caller refuses it, and the rest of it need not be read.

    Raises:
        InputError: the file cannot be read or unpacked, or is packed or encoded in another way than its name says.
    """
    with open_unpacked(path) as file:
        head = file.read(4)
        for start, suffix in PACKED:
            if head.startswith(start):
                name = shlex.quote(str(path))
                raise InputError(f"{path}, byte 0: packed text without its suffix: mv {name} {name}{suffix}")
        for mark, encoding in _BYTE_ORDER_MARKS:
            if head.startswith(mark):
                raise InputError(
                    f"{path}, byte 0: the text is {encoding}, not UTF-8. Convert it: "
                    f"{shell(path, f'iconv -f {encoding} -t UTF-8')}"
                )
        carry = head.removeprefix(b"\xef\xbb\xbf")
        while data := file.read(BLOCK_BYTES):
            data = carry + data
            end = max(data.rfind(b"\n"), data.rfind(b"\r", 0, -1)) + 1  # a last \r may be half of a \r\n
            if end == 0 and len(data) > longest + 1:
                end = len(data)
            if end:
                yield data[:end]
            carry = data[end:]
        if carry:
            yield carry


def decode_lines(path: Path, block: bytes, first: int, longest: int, advice: str) -> list[str]:
    """The lines of a block, whose first one is line `first` of the file (from 1), without their ends.

    Raises:
        InputError: a zero byte, a line of more than `longest` bytes (`advice` ends that message), or no UTF-8.
    """
    lines = block.splitlines()  # of bytes: at \n, \r\n and \r only
    if (at := block.find(b"\0")) >= 0:
        number = first - 1 + len((block[:at] + b".").splitlines())
        fix = shell(path, "tr -d '\\000'")
        raise InputError(
            f"{path}, line {number}: a zero byte, so this is a binary file or UTF-16 without its mark, not UTF-8 "
            f"text. Give a plain text file; if only stray zeros are wrong: {fix}"
        )
    if max(map(len, lines)) > longest:
        index, line = next((i, line) for i, line in enumerate(lines) if len(line) > longest)
        cut_off = index == len(lines) - 1 and not block.endswith((b"\n", b"\r"))
        raise InputError(
            f"{path}, line {first + index}: {'at least ' * cut_off}{len(line):,} bytes long, more than {advice}"
        )
    joined = b"\n".join(lines)
    try:
        text = joined.decode()
    except UnicodeDecodeError as error:
        number = first + joined.count(b"\n", 0, error.start)
        byte = error.start - joined.rfind(b"\n", 0, error.start)
        raise InputError(
            f"{path}, line {number}, byte {byte}: 0x{joined[error.start]:02X} is not UTF-8 here ({error.reason}). "
            f"If the text is Western European: {shell(path, 'iconv -f WINDOWS-1252 -t UTF-8')}"
        ) from error
    return text.split("\n")


# Prose -> sentences

_OWN_RULES = {  # what sentencex 1.0 has abbreviations and quirks for; other languages use a relative's
    **{"am": "Amharic", "ar": "Arabic", "bg": "Bulgarian", "bn": "Bengali", "ca": "Catalan", "da": "Danish"},
    **{"de": "German", "el": "Greek", "en": "English", "es": "Spanish", "fi": "Finnish", "fr": "French"},
    **{"gu": "Gujarati", "hi": "Hindi", "hy": "Armenian", "it": "Italian", "ja": "Japanese", "kk": "Kazakh"},
    **{"kn": "Kannada", "ml": "Malayalam", "mr": "Marathi", "my": "Burmese", "nl": "Dutch", "pa": "Punjabi"},
    **{"pl": "Polish", "pt": "Portuguese", "ru": "Russian", "sk": "Slovak", "ta": "Tamil", "te": "Telugu"},
    "uk": "Ukrainian",
}
_OTHERS = {"cs": "Czech", "he": "Hebrew", "hu": "Hungarian", "ko": "Korean", "sv": "Swedish", "tr": "Turkish"} | {
    "fa": "Persian",
    "id": "Indonesian",
    "ro": "Romanian",
    "vi": "Vietnamese",
    "zh": "Chinese",
}
_ISO_639_1 = frozenset(
    """aa ab ae af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en
    eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv
    ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne
    ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st
    su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu""".split()  # noqa: SIM905
)


def check_language(language: str) -> None:
    """Refuse a code that no language has: sentencex would take it for English without a word.

    Raises:
        InputError: not an ISO 639-1 code; names the codes like it, and those that have rules of their own.
    """
    if language in _ISO_639_1:
        return
    codes = {name.lower(): code for code, name in (_OWN_RULES | _OTHERS).items()}
    named = difflib.get_close_matches(language.lower(), codes, 1)
    first = language[:2].lower()  # "en-US", "EN", "eng"
    near = [codes[named[0]]] if named else [first] if first in _ISO_639_1 else []
    hint = f" Did you mean {near[0]}?" if near else ""
    raise InputError(
        f"text.language = {language!r}: must be an ISO 639-1 code of two letters.{hint} Rules of their own have "
        f"{', '.join(_OWN_RULES)}; any other language is split by those of a related one, or of English."
    )


_WIDE_SPACES = dict.fromkeys(map(ord, "\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000"), " ") | dict.fromkeys(
    range(0x2000, 0x200B), " "
)


def split_sentences(prose: str, language: str) -> list[str]:
    """The sentences of running prose, with the white space around them; empty ones are possible.

    >>> split_sentences("Mr. Smith uses Python 3.11. Why? He likes os.path.", "en")
    ['Mr. Smith uses Python 3.11. ', 'Why? ', 'He likes os.path.']
    """
    sentences: list[str] = []
    open_end = False  # the last piece ends without white space, where a Western full stop ends no sentence: "os.path"
    # sentencex 1.0 panics at white space of several bytes after a single letter; as a space it ends anyway.
    for piece in sentencex.segment(language, prose if prose.isascii() else prose.translate(_WIDE_SPACES)):
        if open_end:
            sentences[-1] += piece
        else:
            sentences.append(piece)
        open_end = piece[-1:] in (".", "!", "?")
    return sentences
