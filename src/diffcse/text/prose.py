"""Running prose -> sentences, by the rules of `sentencex` for a language."""

from __future__ import annotations

import sentencex

from diffcse.errors import InputError

_WITH_RULES = (  # languages with abbreviations and exceptions in sentencex 1.0
    "am ar bg bn ca da de el en es fi fr gu hi hy it ja kk kn ml mr my nl pa pl pt ru sk ta te uk"
)
_ISO_639_1 = frozenset(
    """aa ab ae af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en
    eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv
    ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne
    ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st
    su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu""".split()  # noqa: SIM905
)
_WIDE_SPACES = dict.fromkeys([*map(ord, "\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000"), *range(0x2000, 0x200B)], " ")


def check_language(language: str) -> None:
    """Check that `language` is an ISO 639-1 code; sentencex takes any other string for English.

    Raises:
        InputError: it is not; the message names a similar code and the languages with rules of their own.
    """
    if language not in _ISO_639_1:
        start = language[:2].lower()  # "en-US", "EN", "eng"
        hint = f" Did you mean {start}?" if start in _ISO_639_1 else ""
        raise InputError(
            f"text.language = {language!r}: must be an ISO 639-1 code of two letters.{hint} These languages have their "
            f"own rules: {_WITH_RULES.replace(' ', ', ')}. Others use the rules of a related language, or of English."
        )


def split_sentences(prose: str, language: str) -> list[str]:
    """The sentences of running prose, with the white space around them; some can be empty.

    >>> split_sentences("Mr. Smith uses Python 3.11. Why? He likes os.path.", "en")
    ['Mr. Smith uses Python 3.11. ', 'Why? ', 'He likes os.path.']
    """
    sentences: list[str] = []
    is_open = False  # the last piece ends without white space, as in "os.path": a full stop ends no sentence there
    # sentencex 1.0 panics at white space of several bytes after a single letter.
    for piece in sentencex.segment(language, prose if prose.isascii() else prose.translate(_WIDE_SPACES)):
        if is_open:
            sentences[-1] += piece
        else:
            sentences.append(piece)
        is_open = piece[-1:] in (".", "!", "?")
    return sentences
