"""The language of a post, guessed."""

import re
from functools import lru_cache

from clfa.data.scripts import SPACELESS

SHORT = "short"
_NOISE = re.compile(r"https?:\S*|[@#]\s?\w+|<\w+>|emoji_\d+|\brt\b", re.IGNORECASE)
_WORD = re.compile(rf"[^\W\d_{SPACELESS}]+|[{SPACELESS}]")


@lru_cache(maxsize=50_000)  # cues, slices and tables ask for the same posts; the bound is for memory
def language_of(text: str) -> str:
    """ISO 639 code, guessed by py3langid; `short` where fewer than four words (in scripts without spaces, letters) are left
    without links, names and tags.

    Short and noisy posts are often guessed wrong.
    """
    from py3langid.langid import classify

    plain = _NOISE.sub(" ", text)
    return SHORT if len(_WORD.findall(plain)) < 4 else str(classify(plain)[0])
