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
from clfa.data.records import Bad, Record, Row, Source
from clfa.data.seen import Seen
from clfa.errors import UserError

LONG_TEXT = 10_000  # characters
FEW = 32
"""Rows that are looked at together."""
_FLOAT = re.compile(r"[0-9]+(\.[0-9]+)?[eE]\+?[0-9]+|[0-9]{6,}\.0")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def unique_ids(rows: Iterable[tuple[str, Row]]) -> Source:
    """Rows as they are; one with an id that its split has already becomes `Bad`. An id costs 16 bytes of memory."""
    coming, seen = iter(rows), Seen()
    while some := list(islice(coming, FEW)):
        names = [f"{split} {row.id}" for split, row in some if isinstance(row, Record)]
        keys = [
            hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16, person=b"id").digest()
            for name in names
        ]
        repeated = iter(seen.add(keys))
        for split, row in some:
            if isinstance(row, Record) and next(repeated):
                message = f"{split}: the id {row.id!r} occurs twice; ids must be unique within a split"
                row = Bad(row.id, split, UserError(message, "id-repeated"), row.source)
            yield split, row


def examine(rows: Iterable[tuple[str, Row]], images: bool = True) -> Iterator[tuple[str, Row, list[str]]]:
    """Rows with their images as bytes, each decoded once (on all cores); a row with an image that cannot be read becomes
    `Bad`. With each come the codes of its warnings, see `clfa.data.problems`. A few dozen rows are decoded at a time.
    """
    rows = iter(rows)
    read = partial(_examine_one, images=images)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while some := list(islice(rows, FEW)):
            for (split, _), (row, warnings) in zip(some, pool.map(read, (row for _, row in some))):
                yield split, replace(row, split=split) if isinstance(row, Bad) else row, warnings


def _examine_one(row: Row, images: bool) -> tuple[Row, list[str]]:
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
