"""Work on many rows in steps that are kept: each some thousand rows, in a folder of their own, sealed when it is whole.

A shard counts as done if it is what was written, and the rows that come are those that it was made of: their cells, and size
and time of the files that they name. The first that is not, and all behind it, are made anew.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from clfa.data.atomic import read_json, write_json
from clfa.data.records import Bad, Dropped, Record, Row
from clfa.data.seal import problem_of, seal
from clfa.errors import UserError

log = logging.getLogger(__name__)
ROWS, BYTES = 2_000, 32_000_000
"""Rows of a shard, at most; bytes that come with its rows (an image in a file of its own does not)."""
STATE = "state.json"
WITHOUT = {"write_statistics": False}
"""Of Parquet files: the least and the largest value of each row group, images too, would be in memory while one is read."""


class Shards:
    """Folders `000000`, `000001`, … in `place`; the last that was begun is `folder`.

    Args:
        place: folder, of this alone.
        settings: what the content of a shard depends on beside its rows.
    """

    def __init__(self, place: Path, settings: Any):
        self.place, self.count = place, 0
        self.identity = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
        self.skipping = True

    @property
    def folder(self) -> Path:
        """Of the shard that is being made."""
        return self._folder(self.count - 1)

    def next(self, rows: list[tuple[str, Row]]) -> Any:
        """What `done` was given for these rows before; `None` if they are to be worked on, in an empty folder."""
        self.count += 1
        sha = hashlib.sha256(self.identity.encode())
        for row in rows:
            sha.update(json.dumps(row, default=_plain, sort_keys=True).encode())
        self.identity = sha.hexdigest()
        if self.skipping and not problem_of(self.folder, alone=True):
            state = read_json(self.folder / STATE)
            if state["identity"] == self.identity:
                return state["counted"]
        if self.skipping and self.count > 1:
            log.info("%s: going on behind %s shards of rows", self.place.parent, self.count - 1)
        self.skipping = False
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        return None

    def done(self, counted: Any) -> None:
        """The shard is whole; what was counted up to its end is kept with it."""
        write_json(self.folder / STATE, {"identity": self.identity, "counted": counted})
        seal(self.folder, self.folder.iterdir())

    def merge(self, name: str, target: Path) -> None:
        """A Parquet file of the files of that name, row group after row group."""
        import pyarrow.parquet as pq

        places = self._places(name)
        with pq.ParquetWriter(target, pq.read_schema(places[0]), **WITHOUT) as writer:
            for place in places:
                with pq.ParquetFile(place) as file:
                    for group in range(file.num_row_groups):
                        writer.write_table(file.read_row_group(group))

    def concatenate(self, name: str, target: Path) -> None:
        """A file of the files of that name."""
        with open(target, "wb") as file:
            for place in self._places(name):
                with open(place, "rb") as own:
                    shutil.copyfileobj(own, file)

    def remove(self) -> None:
        """All of them."""
        shutil.rmtree(self.place)

    def _folder(self, number: int) -> Path:
        return self.place / f"{number:06d}"

    def _places(self, name: str) -> list[Path]:
        return [path for number in range(self.count) if (path := self._folder(number) / name).exists()]


def in_shards(rows: Iterable[tuple[str, Row]]) -> Iterator[list[tuple[str, Row]]]:
    """Rows, `ROWS` at a time, or fewer if they are large."""
    some: list[tuple[str, Row]] = []
    size = 0
    for split, row in rows:
        some.append((split, row))
        if isinstance(row, Record):
            size += sum(len(cell) for cell in (row.image, *row.values.values()) if isinstance(cell, bytes))
        if len(some) == ROWS or size >= BYTES:
            yield some
            some, size = [], 0
    if some:
        yield some


def _plain(value: Any) -> Any:
    """What identifies a part of a row, as JSON."""
    if isinstance(value, Record | Dropped | Bad):
        return vars(value)
    if isinstance(value, UserError):
        return [str(value), value.code]
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, Path):
        try:
            state = value.stat()
        except (OSError, ValueError):
            return [str(value)]
        return [str(value), state.st_size, state.st_mtime_ns]
    return dict(value)
