"""Columns beyond text, image and label: cells of any kind, and knowledge about the words of a text."""

import json
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from clfa.errors import UserError

KNOWLEDGE_COLUMNS = ("attributes", "regions", "dependencies")


def as_text(value: Any, where: str = "") -> str:
    """A cell as text; empty for None and NaN. What is no Unicode (halves of a pair) becomes a replacement character.

    Raises:
        UserError: the cell holds bytes; `where` is the file, row and column, for the message.
    """
    if value is None or value != value:  # NaN is not itself
        return ""
    if isinstance(value, (bytes, bytearray, memoryview)):
        place = f"{where}: " if where else ""
        raise UserError(
            f"{place}bytes where a text is expected, {bytes(value[:20])!r}; store the column as text (UTF-8)",
            "text-bytes",
        )
    return str(value).encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def as_cell(value: Any, where: str = "") -> str | bytes | None:
    """A cell as it is stored: bytes as they are, lists as words with spaces, anything else as text; `None` where empty.

    Raises:
        UserError: bytes in a list or an object; `where` is the file, row and column, for the message.
    """
    if isinstance(value, dict):
        # files of `datasets` are {"bytes", "path"}; any other object stays one
        file = "bytes" in value or "path" in value
        value = (
            value.get("bytes") or value.get("path")
            if file
            else json.dumps(value, default=partial(as_text, where=where))
        )
    if isinstance(value, bytes):
        return value or None
    if isinstance(value, (list, tuple)):
        value = " ".join(as_text(word, where) for word in value)
    text = as_text(value, where)
    return text if text.strip() else None


def knowledge_columns(row: Mapping[str, Any], where: str, text: str | None = None) -> dict[str, str]:
    """Knowledge of a row (`KNOWLEDGE_COLUMNS`), by the names of its columns; `where` is the file and row, for errors.

    Raises:
        UserError: bytes, or dependencies that do not fit the words of `text`.
    """
    cells = {name: as_cell(row.get(name), f"{where}, {name}") for name in KNOWLEDGE_COLUMNS}
    knowledge = {name: as_text(cell, f"{where}, {name}") for name, cell in cells.items() if cell is not None}
    if "dependencies" in knowledge:
        read_heads(knowledge["dependencies"], len(word_places(as_text(text))), where)
    return knowledge


def word_places(text: str) -> list[tuple[int, int]]:
    """Where each word begins and ends; words are what white space separates."""
    return [match.span() for match in re.finditer(r"\S+", text)]


def read_heads(cell: str, words: int, where: str) -> list[int]:
    """The column `dependencies`: the HEAD column of CoNLL-U, a number for each word (from 1; 0 is the root), with spaces.

    Raises:
        UserError: not that many numbers, or a head that is no word.
    """
    try:
        heads = [int(number) for number in cell.split()]
    except ValueError:
        raise UserError(
            f"{where}: dependencies are numbers with spaces, found {cell[:60]!r}", "knowledge-heads"
        ) from None
    if len(heads) != words or any(not 0 <= head <= words for head in heads):
        raise UserError(
            f"{where}: dependencies need one head from 0 to {words} for each of the {words} words, found {cell[:60]!r}",
            "knowledge-heads",
        )
    return heads
