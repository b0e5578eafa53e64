"""Rows of a source -> a dataset directory, in a stream, whole or not at all.

Some thousand rows at a time are written to a folder of their own (see `clfa.data.shards`); at the end these become the
directory. So an import that was stopped, however it was, goes on behind the last of them, and ends with the same bytes.
"""

import json
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import clfa
from clfa.data.atomic import write_json
from clfa.data.croissant import croissant
from clfa.data.examine import examine, unique_ids
from clfa.data.lock import only_one
from clfa.data.problems import PROBLEMS
from clfa.data.progress import progress
from clfa.data.records import SPLITS, UNLABELLED, Bad, Dropped, Manifest, Record, Row, normalise_text
from clfa.data.scripts import watch_scripts
from clfa.data.seal import sha256
from clfa.data.shards import WITHOUT, Shards, in_shards
from clfa.errors import UserError

log = logging.getLogger(__name__)
IN_A_ROW = 100
"""Bad posts one after another that end an import: whoever skips a few does not mean all."""
GROUP_ROWS, GROUP_BYTES = 1_000, 1_000_000  # of a Parquet row group, the unit of reading


def write_dataset(
    rows: Iterable[tuple[str, Row]],
    out: str | Path,
    class_names: list[str],
    description: dict[str, Any],
    text: str = "normalised",
    images: str = "embedded",
    on_bad: str = "fail",
    max_bad: float = 0.01,
) -> Manifest:
    """Write a dataset directory in a stream and return its manifest (the content of `dataset.json`).

    Args:
        rows: see `clfa.data.records.Source`.
        out: folder to make.
        class_names: in the order of their numbers.
        description: put into the manifest as it is (reader, filters, …). `columns` names the further columns that are
            stored, `{name: "string" or "binary"}`; other entries of `Record.values` are not. `rows`, their number, is for
            the progress.
        text: `normalised` or `raw`.
        images: `embedded` reads, checks and stores image bytes; `none` leaves them out.
        on_bad: posts that cannot be used (see `clfa.data.examine`): `fail` raises after looking at all of them; `skip`
            lists them in `dropped.jsonl`; `mask` keeps those whose image is bad without it, and fails for any other.
        max_bad: `skip` and `mask` fail if more than this share of the rows is bad, or `IN_A_ROW` one after another.

    Raises:
        UserError: `out` exists; posts cannot be used (the first 20 and the count); a split without rows.
    """
    out = Path(out)
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} exists and is not empty: choose another --out, or delete it first")
    with only_one(out):
        return _write(rows, out, class_names, description, text, images, on_bad, max_bad)


def _write(
    rows: Iterable[tuple[str, Row]],
    out: Path,
    class_names: list[str],
    description: dict[str, Any],
    text: str,
    images: str,
    on_bad: str,
    max_bad: float,
) -> Manifest:
    unfinished, columns = out.with_name(out.name + ".partial"), description.get("columns", {})
    shards, tally = (
        Shards(unfinished / "shards", [clfa.__version__, class_names, columns, text, images, on_bad]),
        Tally(),
    )
    with progress(f"importing to {out}", description.get("rows")) as bar:
        for some in in_shards(unique_ids(watch_scripts(rows))):
            if before := shards.next(some):
                tally = Tally(**before)
                bar.add(len(some))
                continue
            with closing(_Writer(shards.folder, class_names, columns, tally)) as writer:
                for split, row, warnings in examine(some, images == "embedded"):
                    tally.add(split, row, warnings, on_bad)
                    if isinstance(row, Bad):
                        dropped = Dropped(row.id, split, str(row.error), row.source)
                        row = row.record if on_bad == "mask" and row.record else dropped
                    if isinstance(row, Record):
                        writer.keep(split, _clean(row, text))
                    else:
                        writer.drop(row)
                    bar.add()
            shards.done(asdict(tally))
    tally.judge(on_bad, max_bad)
    for code, count in tally.warned.items():
        log.warning("%s posts: %s (%s; `clfa check` lists them)", f"{count:,}", PROBLEMS[code].what, code)
    manifest = Manifest(description, text=text, images=images, labels=class_names)
    manifest["splits"] = {}
    for split, counts in tally.splits(class_names).items():
        shards.merge(f"{split}.parquet", unfinished / f"{split}.parquet")
        manifest["splits"][split] = counts | {"sha256": sha256(unfinished / f"{split}.parquet")}
    shards.concatenate("dropped.jsonl", unfinished / "dropped.jsonl")
    manifest["dropped"] = sum(tally.dropped.values())
    manifest["clfa_version"] = clfa.__version__
    write_json(unfinished / "dataset.json", manifest)
    write_json(unfinished / "croissant.json", croissant(manifest))
    shards.remove()
    if out.exists():
        out.rmdir()
    os.replace(unfinished, out)
    return manifest


def _clean(record: Record, text: str) -> Record:
    """The record as it is stored: every text normalised unless they are `raw`."""
    if text == "raw":
        return record
    values = {name: normalise_text(v) if isinstance(v, str) else v for name, v in record.values.items()}
    return replace(record, text=normalise_text(record.text), values=values)


@dataclass
class Tally:
    """What was counted in the rows so far; as JSON it is kept with each shard."""

    rows: int = 0
    bad: int = 0
    in_a_row: int = 0
    refused: int = 0
    """Bad ones that `mask` does not help."""
    listed: list[str] = field(default_factory=list)
    """The first bad ones."""
    labels: dict[str, dict[str, int]] = field(default_factory=dict)
    """Split -> class name, empty for none -> posts that are kept."""
    without_image: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    warned: dict[str, int] = field(default_factory=dict)
    """Code -> posts."""

    def add(self, split: str, row: Row, warnings: Iterable[str], policy: str) -> None:
        """A row that was examined.

        Raises:
            UserError: too many bad ones in a row.
        """
        self.rows += 1
        for code in warnings:
            self.warned[code] = self.warned.get(code, 0) + 1
        if not isinstance(row, Bad):
            self.in_a_row = 0
            return
        self.bad, self.in_a_row = self.bad + 1, self.in_a_row + 1
        if len(self.listed) < 20:
            post = f"{split} {row.id}: " if row.id else ""
            self.listed.append(f"{post}{row.error} [{row.error.code}]")
        self.refused += policy == "mask" and row.record is None
        if policy != "fail" and self.in_a_row >= IN_A_ROW:
            raise UserError(f"{IN_A_ROW} posts in a row cannot be used, nothing was imported; {self._first()}")

    def judge(self, policy: str, most: float) -> None:
        """At the end.

        Raises:
            UserError: the policy does not bear so many bad ones, or more than a share of `most`.
        """
        counted = f"{self.bad:,} of {self.rows:,} posts cannot be used"
        if self.bad and (policy == "fail" or self.refused):
            options = "or use --on-bad skip (they are then listed in dropped.jsonl)"
            if not self.refused:
                options += ", --on-bad mask (images that are bad are left out) or --images none"
            raise UserError(f"{counted}, nothing was imported; {self._first()}\nFix them, {options}")
        if self.bad > most * self.rows:
            raise UserError(
                f"{counted}, more than --max-bad {most:g}, nothing was imported; {self._first()}\n"
                "Fix them, or raise --max-bad (a share of all posts)"
            )

    def splits(self, class_names: list[str]) -> dict[str, dict[str, Any]]:
        """The entry of each split in the manifest, without its hash.

        Raises:
            UserError: there are no posts to train on, or to choose by.
        """
        described: dict[str, dict[str, Any]] = {}
        for split in (*SPLITS, UNLABELLED):
            if split in ("test", UNLABELLED) and split not in self.labels:
                continue
            if split not in self.labels:
                usable = sum(sum(counts.values()) for counts in self.labels.values())
                raise UserError(f"no rows for the split {split!r}: the source has {usable} usable rows in all")
            counts = self.labels[split]
            described[split] = {
                "rows": sum(counts.values()),
                "labels": {} if split == UNLABELLED else {name: counts.get(name, 0) for name in class_names},
                "dropped": self.dropped.get(split, 0),
                "without_image": self.without_image.get(split, 0),
            }
        return described

    def _first(self) -> str:
        return "\n  ".join([f"the first {len(self.listed)} (`clfa check` lists all):", *self.listed])


class _Writer:
    """Parquet files of the splits, written a row group at a time, and `dropped.jsonl`."""

    def __init__(self, folder: Path, class_names: list[str], columns: Mapping[str, str], tally: Tally):
        self.folder, self.class_names, self.columns, self.tally = folder, class_names, columns, tally
        self.schema = _schema(class_names, columns)
        self.files: dict[str, Any] = {}
        self.waiting: dict[str, list[Record]] = defaultdict(list)
        self.size: Counter[str] = Counter()
        self.dropped_file = open(folder / "dropped.jsonl", "w", encoding="utf-8")  # noqa: SIM115  # see `close`

    def close(self) -> None:
        self.dropped_file.close()
        for split in self.waiting:
            self._flush(split)
        for file in self.files.values():
            file.close()

    def drop(self, row: Dropped) -> None:
        self.tally.dropped[row.split] = self.tally.dropped.get(row.split, 0) + 1
        self.dropped_file.write(json.dumps(vars(row), ensure_ascii=False) + "\n")

    def keep(self, split: str, record: Record) -> None:
        self.waiting[split].append(record)
        counts, without = self.tally.labels.setdefault(split, {}), self.tally.without_image
        counts[record.label or ""] = counts.get(record.label or "", 0) + 1
        without[split] = without.get(split, 0) + (record.image is None)
        self.size[split] += sum(len(v) for v in (record.image, record.text, *record.values.values()) if v)  # type: ignore
        if len(self.waiting[split]) >= GROUP_ROWS or self.size[split] >= GROUP_BYTES:
            self._flush(split)

    def _flush(self, split: str) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        records = self.waiting[split]
        if split not in self.files:
            self.files[split] = pq.ParquetWriter(self.folder / f"{split}.parquet", self.schema, **WITHOUT)
        columns = {
            "id": [record.id for record in records],
            "text": [record.text for record in records],
            "image": [record.image and {"bytes": record.image, "path": None} for record in records],
            "label": [None if record.label is None else self.class_names.index(record.label) for record in records],
            **{name: [record.values.get(name) for record in records] for name in self.columns},
        }
        if records:
            self.files[split].write_table(pa.table(columns, schema=self.schema))
        self.waiting[split], self.size[split] = [], 0


def _schema(class_names: list[str], columns: Mapping[str, str]) -> Any:
    """As `datasets` writes it, so that the directory can be read with that library too."""
    from datasets import ClassLabel, Features, Image, Value

    features = Features(
        id=Value("string"),
        text=Value("string"),
        image=Image(decode=False),
        label=ClassLabel(names=class_names),
        **{name: Value(kind) for name, kind in columns.items()},
    )
    return features.arrow_schema
