"""What stands between a source and its use: each image is decoded once, each post looked at, ids are unique."""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import islice

from clfa.data.images import is_animated, read_image
from clfa.data.records import Bad, Dropped, Record
from clfa.errors import UserError

LONG_TEXT = 10_000  # characters
_FLOAT = re.compile(r"[0-9]+(\.[0-9]+)?[eE]\+?[0-9]+|[0-9]{6,}\.0")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def examine(
    rows: Iterable[tuple[str, Record | Dropped | Bad]], images: bool = True
) -> Iterator[tuple[str, Record | Dropped | Bad, list[str]]]:
    """Rows with their images as bytes, each decoded once (on all cores); a row with an image that cannot be read, or with
    an id that its split has already, becomes `Bad`. With each come the codes of its warnings, see `clfa.data.problems`.

    Ids cost 16 bytes of memory each; a few dozen rows are in memory at a time.
    """
    seen: set[bytes] = set()
    rows = iter(rows)
    read = partial(_examine_one, images=images)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while some := list(islice(rows, 32)):
            for (split, row), (result, warnings) in zip(some, pool.map(read, (row for _, row in some))):
                if isinstance(result, Record):
                    key = hashlib.blake2b(f"{split} {row.id}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
                    if key in seen:
                        message = f"{split}: the id {row.id!r} occurs twice; ids must be unique within a split"
                        error = UserError(message, "id-repeated")
                        result, warnings = Bad(row.id, split, error, row.source), []
                    seen.add(key)
                yield split, replace(result, split=split) if isinstance(result, Bad) else result, warnings


def _examine_one(row: Record | Dropped | Bad, images: bool) -> tuple[Record | Dropped | Bad, list[str]]:
    if not isinstance(row, Record):
        return row, []
    warnings = [
        code
        for code, holds in (
            ("id-float", _FLOAT.fullmatch(row.id)),
            ("text-empty", not row.text.strip()),
            ("text-long", len(row.text) > LONG_TEXT),
            ("text-control", _CONTROL.search(row.text)),
        )
        if holds
    ]
    if row.image is None or not images:
        return replace(row, image=None), warnings
    try:
        image = read_image(row.image)
    except UserError as error:
        return Bad(row.id, "", error, row.source or str(row.image)[:200], replace(row, image=None)), warnings
    return replace(row, image=image), warnings + ["image-animated"] * is_animated(image)
