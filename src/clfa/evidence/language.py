"""The language of a post, guessed; short and noisy posts are often guessed wrong."""

import re

_NOISE = re.compile(r"https?:\S*|[@#]\s?\w+|<\w+>|emoji_\d+|\brt\b", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]+")


def language_of(text: str) -> str:
    """ISO 639 code by py3langid; `short` where fewer than four words are left without links, names and tags."""
    from py3langid.langid import classify

    plain = _NOISE.sub(" ", text)
    return "short" if len(_WORD.findall(plain)) < 4 else str(classify(plain)[0])
