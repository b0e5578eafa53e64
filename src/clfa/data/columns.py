"""Columns beyond text, image and label."""

import re
from typing import Any

from clfa.errors import UserError

PICTURE_WORDS = ("attributes", "regions")
KNOWLEDGE_COLUMNS = (*PICTURE_WORDS, "dependencies")


def knowledge_columns(row: dict[str, Any], where: str, text: str | None = None) -> dict[str, str]:
    """Further knowledge of a row, by the names of its columns; lists become words with spaces.

    Args:
        row: of a table.
        where: file and row, for errors.
        text: the text whose words the dependencies are of.

    Raises:
        UserError: dependencies that do not fit the words of the text.
    """
    found = {}
    for name in KNOWLEDGE_COLUMNS:
        value = row.get(name)
        if isinstance(value, (list, tuple)):
            value = " ".join(map(str, value))
        if value is None or value != value or str(value).strip() == "":  # NaN is not itself
            continue
        found[name] = str(value)
    if "dependencies" in found:
        read_heads(found["dependencies"], len(word_places(as_text(text))), where)
    return found


def as_text(value: Any) -> str:
    """A cell as text; empty for None."""
    return "" if value is None else str(value)


def word_places(text: str) -> list[tuple[int, int]]:
    """Where each word begins and ends."""
    return [match.span() for match in re.finditer(r"\S+", text)]


def read_heads(cell: str, words: int, where: str) -> list[int]:
    """The column `dependencies`: the HEAD column of CoNLL-U, a number for each word (from 1; 0 is the root), with spaces.

    Raises:
        UserError: not that many numbers, or a head that is no word.
    """
    try:
        heads = [int(number) for number in cell.split()]
    except ValueError:
        raise UserError(f"{where}: dependencies are numbers with spaces, found {cell[:60]!r}") from None
    if len(heads) != words or any(not 0 <= head <= words for head in heads):
        raise UserError(
            f"{where}: dependencies need one head from 0 to {words} for each of the {words} words, found {cell[:60]!r}"
        )
    return heads
