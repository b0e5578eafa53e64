"""The posts of a dataset directory as a source again, and with labels that a person has corrected."""

from pathlib import Path

from clfa.data.formats import open_file
from clfa.data.records import Bad, Dropped, Manifest, Record, Source, load_manifest
from clfa.data.seal import sha256
from clfa.data.writing import write_dataset
from clfa.errors import UserError

DROP = "drop"
"""The correction of a post that is not to be kept."""


def correct(dataset: Path, corrections: Path, out: Path) -> Manifest:
    """Write a dataset directory with other labels; splits, texts and images stay.

    Args:
        dataset: dataset directory.
        corrections: file with the columns `id`, `split` and `corrected` (a class, `drop`, or nothing).
        out: folder to make.

    Raises:
        UserError: a column is missing, a class is none of the data set, or a post is not there.
    """
    manifest = load_manifest(dataset)
    table = open_file(corrections)
    missing = [name for name in ("id", "split", "corrected") if name not in table.names()]
    if missing:
        raise UserError(
            f"{corrections} has no column {missing[0]!r}; it has {', '.join(table.names())}", "column-missing"
        )
    wanted: dict[tuple[str, str], str] = {}
    for line, row in table.lines(None):
        if isinstance(row, UserError):
            raise row
        label = str(row["corrected"] or "").strip()
        if label and label not in (*manifest["labels"], DROP):
            raise UserError(
                f"{table.where(line)}: {label!r} is none of {', '.join(manifest['labels'])}, and not {DROP}",
                "label-unknown",
            )
        if label and wanted.setdefault((str(row["split"]), str(row["id"])), label) != label:
            raise UserError(f"{table.where(line)}: the post {row['id']} of {row['split']} has two corrections")
    left = dict(wanted)

    def rows() -> Source:
        for split, row in stored_posts(dataset):
            label = left.pop((split, row.id), "") if isinstance(row, Record) else ""
            if label == DROP and isinstance(row, Record):
                yield split, Dropped(row.id, split, f"dropped by {corrections.name}", row.source)
            elif label and isinstance(row, Record):
                yield split, Record(row.id, row.text, row.image, label, row.values, row.source)
            else:
                yield split, row

    done = f"{sum(label != DROP for label in wanted.values()):,} labels by {corrections.name}, "
    done += f"{sum(label == DROP for label in wanted.values()):,} posts dropped by it"
    described = {name: value for name, value in manifest.items() if name not in ("splits", "dropped", "labels")}
    described |= {
        "filters": [*manifest.get("filters", []), done],
        "rows": sum(s["rows"] for s in manifest["splits"].values()),
    }
    images = described.pop("images", "embedded")
    text = described.pop("text")

    def checked() -> Source:
        yield from rows()
        if left:
            named = ", ".join(f"{id} of {split}" for split, id in list(left)[:5])
            raise UserError(f"{corrections}: {len(left)} posts are not in {dataset}, the first: {named}")

    return write_dataset(checked(), out, manifest["labels"], described, text, images)


def stored_posts(dataset: Path) -> Source:
    """The posts of a dataset directory, and splits that are not what was imported."""
    manifest = load_manifest(dataset)
    names, columns = dict(enumerate(manifest["labels"])), manifest.get("columns", {})
    for split, described in manifest["splits"].items():
        path = dataset / f"{split}.parquet"
        if not path.is_file() or sha256(path) != described["sha256"]:
            why = "is not the file that was imported (SHA-256)" if path.is_file() else "is not there"
            yield split, Bad("", split, UserError(f"{path} {why}", "split-changed"), str(path))
        if not path.is_file():
            continue
        table = open_file(path)
        for number, row in table.lines(None):
            where = table.where(number)
            if isinstance(row, UserError):
                yield split, Bad("", split, row, where)
            elif row["label"] is not None and row["label"] not in names:
                wrong = f"{where}: the label {row['label']} is none of {', '.join(names.values())}"
                yield split, Bad(row["id"], split, UserError(wrong, "label-unknown"), where)
            else:
                image = row["image"] and row["image"]["bytes"]
                values = {name: row[name] for name in columns if row.get(name) is not None}
                label = None if row["label"] is None else names[row["label"]]
                yield split, Record(row["id"], row["text"] or "", image, label, values, where)
