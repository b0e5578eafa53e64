"""Writing systems: which script a text is in, and its words where the script does not set them apart by spaces."""

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import pairwise
from typing import TypeVar

log = logging.getLogger(__name__)

# Thai, Lao, Myanmar, Khmer, Hiragana and Katakana, Han, Myanmar extended, half-width Katakana
SPACELESS = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u0edc-\u0edf\u1000-\u103f\u1050-\u108f\u1780-\u17d3\u3041-\u3096\u309d-\u309f"
    "\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\ua9e0-\ua9ef\uaa60-\uaa7f\uf900-\ufaff"
    "\uff66-\uff9f\U00020000-\U0003ffff"
)
"""Letters of scripts without spaces between words, for a character class of a regular expression."""
FOREIGN = 0.05
"""Share of texts in other scripts than Latin that `watch_scripts` warns of."""

_PIECE = re.compile(rf"([{SPACELESS}]+)|[^{SPACELESS}\s]+")
_NAMES = {"Cjk": "Han", "Ideographic": "Han", "Katakana-Hiragana": "Katakana"}

T = TypeVar("T")


def split_words(text: str, pairs: bool = False) -> list[str]:
    """White-space tokens of a text; letters of a script without spaces (`SPACELESS`) are tokens of their own.

    Marks that combine with a letter stay with it. With `pairs` the tokens are each two neighbouring letters, a letter
    only where it stands alone (as in Lucene's CJKAnalyzer): most Chinese words have two. Texts without such scripts give
    `text.split()`.
    """
    words: list[str] = []
    for piece in _PIECE.finditer(text):
        if not piece[1]:
            words.append(piece[0])
            continue
        letters: list[str] = []
        for character in piece[1]:
            if letters and unicodedata.category(character).startswith("M"):
                letters[-1] += character
            else:
                letters.append(character)
        words += [first + second for first, second in pairwise(letters)] if pairs and len(letters) > 1 else letters
    return words


def script_of(text: str) -> str | None:
    """The script of most letters of a text by its Unicode name (`Latin`, `Han`, `Cyrillic` …); `None` without letters."""
    if text.isascii():
        return "Latin" if any(map(str.isalpha, text)) else None
    counts = Counter(script for character in text if (script := _script(character)))
    return counts.most_common(1)[0][0] if counts else None


def watch_scripts(rows: Iterable[tuple[str, T]]) -> Iterator[tuple[str, T]]:
    """Rows `(split, Record or Dropped)` as they are; after the last a warning if over 5 % of the texts are not in Latin
    script, which encoders of English do not read."""
    scripts: Counter[str | None] = Counter()
    for split, row in rows:
        scripts[script_of(getattr(row, "text", ""))] += 1
        yield split, row
    del scripts[None]
    foreign = Counter({script: count for script, count in scripts.items() if script != "Latin"})
    if foreign.total() > FOREIGN * scripts.total():
        shares = ", ".join(f"{name} {count / scripts.total():.1%}" for name, count in foreign.most_common(3))
        log.warning(
            "%.1f %% of the texts are not in Latin script (%s): text encoders of English, as in the configurations that "
            "come with clfa, do not read them; choose a multilingual one in model.modalities.text.encoder",
            100 * foreign.total() / scripts.total(),
            shares.replace("%", " %"),
        )


@cache
def _script(character: str) -> str:
    """Of a letter, the first word of its Unicode name; empty for anything else."""
    # full-width and mathematical letters belong to their script
    plain = unicodedata.normalize("NFKC", character)[0]
    if not plain.isalpha():
        return ""
    name = unicodedata.name(plain, "").split(" ")[0].title()
    return _NAMES.get(name, name)
