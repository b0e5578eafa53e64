"""A post, what may be in it, and the dataset directory it lives in.

A dataset directory holds `train/validation/test.parquet` (image bytes inside), `dataset.json` (labels, counts, hashes,
filters) and `dropped.jsonl` (each row that was not kept, and why). Nothing is ever dropped without a line there.
"""

import hashlib
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import clfa
from clfa.data.images import MAX_IMAGE_BYTES, open_image
from clfa.errors import UserError

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Record:
    """One post. `image` is a path inside the data set until it is written, then bytes; `None` means there is none."""

    id: str
    text: str
    image: Path | bytes | None = None
    label: str | None = None
    knowledge: str | None = None
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Dropped:
    """A row of the source that is not in the dataset directory."""

    id: str
    split: str
    reason: str
    source: str


def normalise_text(text: str) -> str:
    """Unicode NFC, runs of white space to one space, ends stripped.

    Irregular white space alone predicts the label of MMSD with 94 % on its test split, so this is the default everywhere.
    """
    return " ".join(unicodedata.normalize("NFC", text).split())


def write_dataset(
    rows: Iterable[tuple[str, Record | Dropped]],
    out: str | Path,
    labels: list[str],
    description: dict[str, Any],
    text: str = "normalised",
    images: str = "embedded",
    on_bad: str = "fail",
) -> dict[str, Any]:
    """Write a dataset directory and return its manifest (the content of `dataset.json`).

    Args:
        rows: `(split, Record)` for each kept and `(split, Dropped)` for each dropped row of the source, in file order.
        out: folder to make; must not exist.
        labels: class names in the order of their numbers.
        description: put into the manifest as it is (reader, filters, …).
        text: `normalised` or `raw`.
        images: `embedded` reads, checks and stores image bytes; `none` leaves them out.
        on_bad: `fail` raises after looking at all rows; `skip` moves rows with bad images to `dropped.jsonl`.

    Raises:
        UserError: `out` exists; images are missing or unreadable (`on_bad="fail"`: the first 20 and the count);
            duplicate ids within a split; a split without rows.
    """
    out = Path(out)
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} exists and is not empty: choose another --out, or delete it first")
    partial = out.with_name(out.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)

    kept: dict[str, list[Record]] = {split: [] for split in SPLITS}
    dropped: list[Dropped] = []
    bad: list[str] = []
    seen: set[tuple[str, str]] = set()
    for split, row in rows:
        if isinstance(row, Dropped):
            dropped.append(row)
            continue
        if (split, row.id) in seen:
            raise UserError(f"{split}: the id {row.id!r} occurs twice; ids must be unique within a split")
        seen.add((split, row.id))
        try:
            image = _read_image(row.image) if images == "embedded" else None
        except UserError as error:
            bad.append(f"{split} {row.id}: {error}")
            dropped.append(Dropped(row.id, split, f"bad image: {error}", str(row.image)))
            continue
        content = row.text if text == "raw" else normalise_text(row.text)
        knowledge = row.knowledge if text == "raw" or row.knowledge is None else normalise_text(row.knowledge)
        kept[split].append(Record(row.id, content, image, row.label, knowledge, row.extra))
    if bad and on_bad == "fail":
        listed = "\n  ".join(bad[:20])
        raise UserError(
            f"{len(bad)} of {len(seen):,} posts have a missing or unreadable image; the first {min(20, len(bad))}:\n"
            f"  {listed}\nFix the files, or use --on-bad skip (they are then listed in dropped.jsonl) or --images none"
        )

    extra = sorted({key for records in kept.values() for record in records for key in record.extra})
    manifest: dict[str, Any] = {**description, "text": text, "images": images, "labels": labels, "splits": {}}
    for split, records in kept.items():
        if not records and split != "test":
            raise UserError(f"no rows for the split {split!r}: the source has {len(seen)} usable rows in all")
        if records:
            path = partial / f"{split}.parquet"
            _write_parquet(records, path, labels, extra)
            counts = Counter(record.label for record in records)
            manifest["splits"][split] = {
                "rows": len(records),
                "labels": {name: counts[name] for name in labels},
                "dropped": sum(row.split == split for row in dropped),
                "without_image": sum(record.image is None for record in records),
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
    manifest["dropped"] = len(dropped)
    manifest["clfa_version"] = clfa.__version__
    with open(partial / "dropped.jsonl", "w", encoding="utf-8") as file:
        for row in dropped:
            file.write(json.dumps(vars(row), ensure_ascii=False) + "\n")
    (partial / "dataset.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if out.exists():
        out.rmdir()
    os.replace(partial, out)
    return manifest


def load_manifest(dataset: str | Path) -> dict[str, Any]:
    """The content of `DATASET/dataset.json`.

    Raises:
        UserError: the folder is not a dataset directory.
    """
    path = Path(dataset) / "dataset.json"
    if not path.is_file():
        raise UserError(f"{dataset} is not a dataset directory (no dataset.json): make one with `clfa import`")
    return json.loads(path.read_text(encoding="utf-8"))


def load_split(dataset: str | Path, split: str):
    """One split as a memory-mapped `datasets.Dataset` with the columns of `Record` (images as undecoded bytes).

    Raises:
        UserError: the dataset directory has no such split.
    """
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    path = Path(dataset) / f"{split}.parquet"
    if not path.is_file():
        raise UserError(f"{dataset} has no split {split!r}; it has {', '.join(load_manifest(dataset)['splits'])}")
    return Dataset.from_parquet(str(path))


def _read_image(image: Path | bytes | None) -> bytes | None:
    """Bytes of an image that was fully decoded once, or `None` where the row names no image."""
    if image is None:
        return None
    if isinstance(image, Path):
        if not image.is_file():
            raise UserError(f"no such file: {image}")
        if image.stat().st_size > MAX_IMAGE_BYTES:
            raise UserError(f"{image.name}: over {MAX_IMAGE_BYTES:,} bytes; shrink the image")
        name, data = image.name, image.read_bytes()
    else:
        name, data = "image", image
    open_image(data, name)
    return data


def _write_parquet(records: list[Record], path: Path, labels: list[str], extra: list[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import ClassLabel, Features, Image, Value

    features = Features(
        id=Value("string"),
        text=Value("string"),
        image=Image(decode=False),
        label=ClassLabel(names=labels),
        knowledge=Value("string"),
        **{name: Value("string") for name in extra},
    )
    schema = features.arrow_schema
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, len(records), 1000):
            chunk = records[start : start + 1000]
            columns = {
                "id": [record.id for record in chunk],
                "text": [record.text for record in chunk],
                "image": [record.image and {"bytes": record.image, "path": None} for record in chunk],
                "label": [None if record.label is None else labels.index(record.label) for record in chunk],
                "knowledge": [record.knowledge for record in chunk],
                **{name: [record.extra.get(name) for record in chunk] for name in extra},
            }
            writer.write_table(pa.table(columns, schema=schema))
