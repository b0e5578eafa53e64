"""Rows of a dataset directory. Labels are in memory; texts and image bytes are read when they are asked for.

Parquet row groups of about a megabyte are the unit of reading, so memory does not grow with the number of images; texts of
which single cells are read are kept as an Arrow column.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clfa.data.atomic import replacing
from clfa.data.cache import Cache, Compute, Content, Keys, OnCluster, content_key, fill
from clfa.data.progress import track
from clfa.data.records import load_manifest
from clfa.errors import UserError

UNKNOWN, NONE = -1, -2
"""In place of an entry of a cache: it has none; there is no value."""


class Row(Mapping[str, Any]):
    """One post: a mapping from columns to values, which are read when asked for.

    Args:
        rows: where it is from.
        number: its row number in the splits of `rows`.
        changes: columns with other values than those stored (see `replace`).
    """

    def __init__(self, rows: "Rows", number: int, changes: Mapping[str, Any] | None = None):
        self.rows, self.number, self.changes = rows, number, changes or {}

    def __getitem__(self, column: str) -> Any:
        return self.changes[column] if column in self.changes else self.rows.cell(column, self.number)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self.rows.column_names, *self.changes]))

    def __len__(self) -> int:
        return len(set(self.rows.column_names) | set(self.changes))

    def __contains__(self, column: object) -> bool:
        return column in self.rows.column_names or column in self.changes

    def replace(self, **values: Any) -> "Row":
        """The post with other values in some columns; nothing else is read for it."""
        return Row(self.rows, self.number, {**self.changes, **values})

    def entry(self, cache: Cache, column: str, kind: str, filled: bool) -> int | None:
        """The entry of one stored value in a cache, see `Rows.entries`; `None` where the value is not the stored one."""
        return None if column in self.changes else int(self.rows.entries(cache, column, kind, filled)[self.number])


class Rows(Sequence[Row]):
    """Some rows of one or more splits of a dataset directory, in order.

    Args:
        dataset: dataset directory.
        splits: the splits whose files hold the rows.
        numbers: row numbers in the splits one after the other; all rows by default.
    """

    def __init__(self, dataset: Path, splits: Sequence[str], numbers: NDArray[np.integer] | None = None):
        self.dataset, self.splits = dataset, list(splits)
        self.name = f"{dataset}/{'+'.join(splits)}"
        self.files = [_Split(dataset, split) for split in splits]
        counts = [file.count for file in self.files]
        self.ends = np.cumsum(counts)
        self.numbers = np.asarray(np.arange(sum(counts)) if numbers is None else numbers, dtype=np.int32)
        self.column_names = list(dict.fromkeys(name for file in self.files for name in file.columns))
        self._entries: dict[tuple[Cache, str, str, bool], NDArray[np.int32]] = {}

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: Any) -> Any:
        """A row by its place, rows by a slice, or a column by its name."""
        if isinstance(place, str):
            return self.column(place)
        if isinstance(place, slice):
            return self.select(np.arange(len(self))[place])
        if place < -len(self) or place >= len(self):
            raise IndexError(f"row {place} of {len(self)}")
        return Row(self, int(self.numbers[place]))

    def select(self, places: Sequence[int] | NDArray) -> "Rows":
        """Some of the rows, by their places; nothing is read again."""
        chosen = Rows.__new__(Rows)
        chosen.__dict__.update({key: value for key, value in vars(self).items() if key != "labels"})
        chosen.numbers = self.numbers[np.asarray(places, dtype=np.int64)]
        return chosen

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """(N,) class numbers; -1 where a row has none."""
        if "label" not in self.column_names:
            return np.array([], dtype=np.int64)
        numbers = [np.array(file.kept("label").fill_null(-1).cast(pa.int32())) for file in self.files]
        return np.concatenate(numbers)[self.numbers].astype(np.int64)

    @property
    def texts(self) -> list[str]:
        """Texts, empty where a row has none."""
        return [text or "" for text in self.column("text")]

    def column(self, name: str) -> list:
        """One column of these rows (not for images: `contents` streams them); empty if there is no such column."""
        return self._array(name).to_pylist() if name in self.column_names else []

    def lengths(self, name: str) -> NDArray[np.int64]:
        """(N,) characters of a column of texts; 0 where a row has none."""
        if name not in self.column_names:
            return np.zeros(len(self), dtype=np.int64)
        return np.concatenate([file.lengths(name) for file in self.files])[self.numbers].astype(np.int64)

    def _array(self, name: str) -> pa.Array:
        """One column of the chosen rows."""
        in_order = bool((self.numbers[1:] >= self.numbers[:-1]).all())
        order = np.arange(0) if in_order else np.argsort(self.numbers, kind="stable")
        numbers, start, pieces = self.numbers if in_order else self.numbers[order], 0, []
        for file, end in zip(self.files, self.ends):
            low, high = np.searchsorted(numbers, [start, end])
            pieces.append(file.take(name, numbers[low:high] - start))
            start = end
        if in_order:
            return pa.concat_arrays(pieces)
        places = np.empty(len(order), dtype=np.int64)
        places[order] = np.arange(len(order))
        return pa.concat_arrays(pieces).take(pa.array(places))

    def has(self, column: str) -> bool:
        """Whether any row holds a value in this column."""
        return any(file.filled(column) for file in self.files)

    def cell(self, column: str, number: int) -> Any:
        """One value by its row number in the splits; image bytes as they are stored."""
        file = int(np.searchsorted(self.ends, number, side="right"))
        return self.files[file].cell(column, number - (int(self.ends[file - 1]) if file else 0))

    def keys(self, column: str, kind: str) -> Keys:
        """(N,) content keys of one column; empty bytes where a row has none. Computed once per split, and kept beside it."""
        return np.concatenate([file.keys(column, kind) for file in self.files])[self.numbers]

    def entries(self, cache: Cache, column: str, kind: str, filled: bool = False) -> NDArray[np.int32]:
        """(N,) entry of each row of the splits in a cache; `UNKNOWN` where it is not there, `NONE` where there is no value
        (or an empty one, if it is to be `filled`)."""
        which = (cache, column, kind, filled)
        if which not in self._entries:
            empty = content_key(kind, "") if filled else b""
            pieces = []
            for file in self.files:
                keys = file.keys(column, kind)
                entries = cache.find_all(keys)
                entries[keys == b""] = NONE
                entries[keys == empty] = NONE
                pieces.append(entries)
            self._entries[which] = np.concatenate(pieces)
        return self._entries[which]


def load_split(dataset: str | Path, split: str) -> Rows:
    """All rows of one split.

    Raises:
        UserError: the dataset directory has no such split.
    """
    return Rows(Path(dataset), [split])


def stream_column(dataset: Path, split: str, column: str) -> Iterator[Content | None]:
    """The values of one column of a split in order, a row group in memory at a time; nothing if there is no such column.

    Raises:
        UserError: the dataset directory has no such split.
    """
    yield from _Split(dataset, split).stream(column)


def fill_split(
    folder: Path,
    dataset: Path,
    split: str,
    column: str,
    kind: str,
    compute: Compute,
    what: str,
    batch_size: int = 32,
    read: Callable[[Any], Content | None] | None = None,
    on_cluster: OnCluster | None = None,
) -> int:
    """Make sure that a cache holds one column of a split; what is there already is not even read.

    Args:
        folder: the cache, see `clfa.data.cache.fill`.
        dataset: dataset directory.
        split: the split.
        column: the column; where the data set has none, nothing is done.
        kind: kind of its contents.
        compute: a batch of contents -> a tensor each.
        what: for the progress.
        batch_size: contents per call of `compute`.
        read: what is taken of each cell; the cell itself by default.
        on_cluster: see `clfa.data.cache.fill`.

    Returns:
        The number of contents computed.
    """
    rows = load_split(dataset, split)
    if column not in rows.column_names:
        return 0
    if read is None and (rows.entries(Cache(folder), column, kind) != UNKNOWN).all():
        return 0
    cells = stream_column(dataset, split, column)
    values = (value for cell in cells if (value := read(cell) if read else cell) is not None)
    return fill(folder, kind, values, compute, what, batch_size, len(rows), on_cluster)


class _Split:
    """The Parquet file of one split."""

    def __init__(self, dataset: Path, split: str):
        self.dataset, self.split = dataset, split
        self.path = dataset / f"{split}.parquet"
        if not self.path.is_file():
            raise UserError(f"{dataset} has no split {split!r}; it has {', '.join(load_manifest(dataset)['splits'])}")
        self.metadata = pq.read_metadata(self.path)
        self.schema = self.metadata.schema.to_arrow_schema()
        self.columns, self.count = self.schema.names, self.metadata.num_rows
        self.group_ends = np.cumsum([self.metadata.row_group(n).num_rows for n in range(self.metadata.num_row_groups)])
        self.arrays: dict[str, pa.Array] = {}  # columns without bytes of which cells were asked for
        self.group: tuple[str, int, list] | None = None  # the group read last: neighbours are often asked for

    def kept(self, column: str) -> pa.Array:
        """A column without bytes, in memory from now on."""
        if column not in self.arrays:
            self.arrays[column] = self.take(column, np.arange(self.count))
        return self.arrays[column]

    def take(self, column: str, numbers: NDArray[np.integer]) -> pa.Array:
        """Some rows of a column without bytes, by their numbers in order."""
        if column not in self.columns:
            return pa.nulls(len(numbers), pa.large_string())
        if column in self.arrays:
            return self.arrays[column].take(pa.array(numbers))
        kind, start = self.schema.field(column).type, 0
        pieces = [pa.array([], kind)]
        with self._open() as file:
            for group, end in enumerate(self.group_ends.tolist()):
                low, high = np.searchsorted(numbers, [start, end])
                if high > low:
                    chunk = file.read_row_group(group, columns=[column]).column(0).combine_chunks()
                    pieces.append(chunk.take(pa.array(numbers[low:high] - start)))
                start = end
        wide = pa.large_string() if pa.types.is_string(kind) else kind
        return pa.concat_arrays([piece.cast(wide) for piece in pieces])

    def lengths(self, column: str) -> NDArray[np.int32]:
        """Characters of each text of a column."""
        if column not in self.columns:
            return np.zeros(self.count, dtype=np.int32)
        with self._open() as file:
            groups = range(self.metadata.num_row_groups)
            chunks = (file.read_row_group(group, columns=[column]).column(0) for group in groups)
            lengths = [np.array(pc.utf8_length(chunk).cast(pa.int32()).fill_null(0)) for chunk in chunks]
        return np.concatenate([np.zeros(0, dtype=np.int32), *lengths])

    def cell(self, column: str, number: int) -> Any:
        if column not in self.columns:
            raise KeyError(column)
        if not self._holds_bytes(column):
            return self.kept(column)[number].as_py()
        group = int(np.searchsorted(self.group_ends, number, side="right"))
        if self.group is None or self.group[:2] != (column, group):
            with self._open() as file:
                self.group = (column, group, file.read_row_group(group, columns=[column]).column(0).to_pylist())
        return self.group[2][number - (int(self.group_ends[group - 1]) if group else 0)]

    def stream(self, column: str) -> Iterator[Content | None]:
        if column not in self.columns:
            return
        with self._open() as file:
            for group in range(self.metadata.num_row_groups):
                for value in file.read_row_group(group, columns=[column]).column(0).to_pylist():
                    yield value["bytes"] if isinstance(value, dict) else value

    def _open(self) -> pq.ParquetFile:
        return pq.ParquetFile(self.path, metadata=self.metadata, memory_map=False)

    def filled(self, column: str) -> bool:
        """Whether any row has a value; an empty text is none."""
        return column in self.columns and any(value for value in self.stream(column))

    def keys(self, column: str, kind: str) -> Keys:
        # of this very file: whoever changes it gets new keys
        described = load_manifest(self.dataset)["splits"].get(self.split, {}).get("sha256", "")[:16]
        state = self.path.stat()
        version = f"{described}-{state.st_size:x}-{state.st_mtime_ns:x}"
        path = self.dataset / "keys" / f"{self.split}-{column}-{kind}-{version}.npy"
        if path.is_file():
            return np.load(path, allow_pickle=False)
        keys = np.zeros(self.count, dtype="S16")
        for number, value in enumerate(track(self.stream(column), f"reading {column} of {self.split}", self.count)):
            if value is not None:
                keys[number] = content_key(kind, value)
        with replacing(path) as partial, open(partial, "wb") as out:
            np.save(out, keys)
        return keys

    def _holds_bytes(self, column: str) -> bool:
        kind = self.schema.field(column).type
        return pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
