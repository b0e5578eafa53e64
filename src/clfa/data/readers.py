"""Files of the wild -> rows `(split, Record | Dropped)`, exactly one for each row of the source.

Each reader returns `(rows, labels, description)`, ready for `clfa.data.records.write_dataset`.
"""

import ast
import csv
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clfa.data.records import SPLITS, Dropped, Record
from clfa.errors import UserError

Rows = Iterator[tuple[str, Record | Dropped]]

# posts with one of these tokens give their label away (Cai et al. 2019, section 4.1)
MMSD_FILTER = frozenset(
    ["sarcasm", "sarcastic", "reposting", "<url>", "joke", "humour", "humor", "jokes", "irony", "ironic", "exgag"]
)
MMSD_LABELS = ["not_sarcastic", "sarcastic"]
NUMBERED = dict(enumerate(MMSD_LABELS))  # a dictionary, so that -1 is an error and not the last class
MMSD_FILES = {"train": "train.txt", "validation": "valid2.txt", "test": "test2.txt"}
MMSD2_FILES = {"train": "train.json", "validation": "valid.json", "test": "test.json"}
MVSA_LABELS = ["positive", "neutral", "negative"]
SPLIT_NAMES = {"train": ("train",), "validation": ("validation", "valid", "dev", "val"), "test": ("test",)}


def read_mmsd(source: Path, images: Path | None, filter: str = "tokens") -> tuple[Rows, list[str], dict[str, Any]]:
    """MMSD (Cai et al. 2019): one Python list a line, `[id, text, label]` or `[id, text, hashtag, annotator]`.

    Args:
        source: folder with `train.txt`, `valid2.txt`, `test2.txt`.
        images: folder of `<id>.jpg`; `None` reads texts only.
        filter: `tokens` drops posts that contain one of the label-giving words as a token (19,816/2,410/2,409 remain),
            `substrings` anywhere in the text (19,557/2,387/2,373, as some later papers did), `none` keeps all.

    Raises:
        UserError: a file is missing or a line is not such a list (file and line number are named).
    """

    def rows() -> Rows:
        for split, name in MMSD_FILES.items():
            path = _existing(source / name, "train.txt, valid2.txt and test2.txt of MMSD")
            for number, line in enumerate(path.read_text(encoding="utf-8").rstrip("\n").split("\n"), 1):
                try:
                    id, text, *found = ast.literal_eval(line)
                    label = NUMBERED[found[-1]]
                    extra = {"hashtag_label": NUMBERED[found[0]]} if len(found) == 2 else {}
                except (ValueError, SyntaxError, IndexError, TypeError, KeyError):
                    raise UserError(
                        f"{path}:{number}: expected a list [id, text, label], found {line[:80]!r}"
                    ) from None
                word = _giveaway(text, filter)
                if word:
                    yield split, Dropped(str(id), split, f"contains {word!r}", f"{name}:{number}")
                    continue
                yield split, Record(str(id), text, images and images / f"{id}.jpg", label, extra=extra)

    return rows(), MMSD_LABELS, {"name": "mmsd", "filters": [f"giveaway words as {filter}"] if filter != "none" else []}


def read_mmsd2(source: Path, images: Path | None) -> tuple[Rows, list[str], dict[str, Any]]:
    """MMSD2.0 (Qin et al. 2023): JSON lists of `{"image_id", "text", "label"}`.

    Args:
        source: folder with `train.json`, `valid.json`, `test.json`.
        images: folder of `<image_id>.jpg`; `None` reads texts only.

    Raises:
        UserError: a file is missing or an entry lacks a field.
    """

    def rows() -> Rows:
        for split, name in MMSD2_FILES.items():
            path = _existing(source / name, "train.json, valid.json and test.json of MMSD2.0")
            for number, entry in enumerate(_read_json(path)):
                try:
                    id, text, label = str(entry["image_id"]), entry["text"], NUMBERED[entry["label"]]
                except (KeyError, IndexError, TypeError):
                    raise UserError(
                        f"{path}, entry {number}: expected image_id, text and label 0 or 1, found {str(entry)[:80]}"
                    ) from None
                yield split, Record(id, text, images and images / f"{id}.jpg", label)

    return rows(), MMSD_LABELS, {"name": "mmsd2", "filters": []}


def read_mvsa(
    source: Path, images: Path | None, split_dir: Path | None = None, split: str = "stratified", seed: int = 0
) -> tuple[Rows, list[str], dict[str, Any]]:
    """MVSA-Single and MVSA-Multiple (Niu et al. 2016): `data/<id>.jpg`, `data/<id>.txt`, `labelResultAll.txt`.

    The joint label: majority of the annotators per modality (Multiple: at least two of three), then equal = that,
    neutral + polar = polar, positive against negative = dropped (Xu and Mao 2017).

    Args:
        source: the folder that holds `data/`.
        images: folder of `<id>.jpg`, by default `source/data`; `None` reads texts only.
        split_dir: folder with `train`, `dev`/`valid`/`validation` and `test` as `.json` (list of ids or of
            `{"id", "emotion_label"}`, 0 positive, 1 neutral, 2 negative) or `.txt` (an id a line). Its labels are used
            where `labelResultAll.txt` is absent.
        split: without `split_dir`: `stratified` (8:1:1, drawn with `seed`) or `file-order` (the last tenth of each class
            is test, the tenth before it validation, as in the paper's released code).
        seed: seed of the stratified split.

    Raises:
        UserError: a file is missing, a label is unknown, or there are neither labels nor a split file with labels.
    """
    result = source / "labelResultAll.txt"
    lists = _read_split_lists(split_dir) if split_dir else None
    if result.is_file():
        found = list(_read_joint_labels(result))
        joint = dict(found)
        if len(joint) < len(found):
            raise UserError(f"{result} names an id twice")
    elif lists:
        joint = {id: (label, {}) for entries in lists.values() for id, label in entries.items() if label}
    else:
        raise UserError(f"{result} not found: put it there, or give --split-dir with files that carry emotion_label")
    if lists:
        split_of = {id: name for name, entries in lists.items() for id in entries}
        unknown = [id for id in split_of if id not in joint]
        if unknown:
            raise UserError(f"{split_dir}: {len(unknown)} ids have no label, the first: {', '.join(unknown[:5])}")
    else:
        labelled = [(id, label) for id, (label, _) in joint.items() if label in MVSA_LABELS]
        split_of = dict(zip([id for id, _ in labelled], split_rows([label for _, label in labelled], split, seed)))

    def rows() -> Rows:
        for id, (label, extra) in joint.items():
            if label not in MVSA_LABELS:
                yield "all", Dropped(id, "all", label, "labelResultAll.txt")
            elif id not in split_of:
                yield "all", Dropped(id, "all", "in no split file", str(split_dir))
            else:
                path = _existing(source / "data" / f"{id}.txt", "the data folder of MVSA")
                text = _decode(path.read_bytes()).strip()
                yield split_of[id], Record(id, text, images and images / f"{id}.jpg", label, extra=extra)

    how = "given split files" if lists else f"{split}, seed {seed}" if split == "stratified" else split
    filters = ["positive against negative dropped", "majority of annotators"] if result.is_file() else []
    return rows(), MVSA_LABELS, {"name": "mvsa", "filters": filters, "split": how}


def read_table(
    source: str,
    images: Path | None,
    columns: dict[str, str],
    seed: int = 0,
    embed: bool = True,
) -> tuple[Rows, list[str], dict[str, Any]]:
    """Anybody's posts: CSV, TSV, JSONL or Parquet; a folder of those named train/validation/test; or anything that
    `datasets.load_dataset` reads from a local folder (imagefolder with `metadata.csv`) or by hub name.

    Args:
        source: file, folder or hub name.
        images: folder that image paths are relative to; by default the folder of the file.
        columns: our name -> column name in the file, for `id`, `text`, `image`, `label`, `split`, `knowledge`.
            Without an id column rows are numbered; without a split column (and one file) the split is stratified 8:1:1.
        seed: seed of that split.
        embed: whether images are wanted at all.

    Raises:
        UserError: no such file, a column is missing (with the nearest name), a label is empty.
    """
    path = Path(source)
    tables = _read_tables(path) if path.exists() else _read_hub(source)
    root = images or (path if path.is_dir() else path.parent)
    parsed: list[tuple[str | None, Record]] = []
    for split, name, rows in tables:
        for number, row in enumerate(rows):
            if number == 0:
                needed = ("text", "label", "image") if embed else ("text", "label")
                _check_columns(list(row), columns, name, needed, "for texts alone, use --images none")
            where = f"{name}, row {number + 1}"
            label = as_text(row.get(columns["label"])).strip()
            if not label:
                raise UserError(f"{where}: the label is empty; fill it in or delete the row")
            id = row.get(columns["id"])
            record = Record(
                id=str(id) if id is not None else f"{split}-{number:06d}" if split else f"{number:06d}",
                text=as_text(row.get(columns["text"])),
                image=safe_image(row.get(columns["image"]), root, where) if embed else None,
                label=label,
                knowledge=None if row.get(columns["knowledge"]) is None else str(row[columns["knowledge"]]),
            )
            parsed.append((_split_name(row[columns["split"]], where) if row.get(columns["split"]) else split, record))
    labels = sorted({str(record.label) for _, record in parsed})
    if len(labels) < 2:
        raise UserError(f"{source}: column {columns['label']!r} holds {labels}; at least two classes are needed")
    if any(split is None for split, _ in parsed):
        drawn = split_rows([str(record.label) for _, record in parsed], "stratified", seed)
        parsed = [(split or other, record) for (split, record), other in zip(parsed, drawn)]
    how = "given" if all(split for split, _, _ in tables) else f"column or stratified 8:1:1, seed {seed}"
    rows_out = ((split or "train", record) for split, record in parsed)
    return rows_out, labels, {"name": path.stem, "filters": [], "split": how}


def read_posts(path: Path, columns: dict[str, str], needed: tuple[str, ...] = ("text",)) -> list[dict[str, Any]]:
    """Rows of a CSV, TSV, JSONL or Parquet file to predict on, as they are (labels are not needed).

    Args:
        path: the file.
        columns: our name -> column name.
        needed: which of them must be there.

    Raises:
        UserError: no such file, unknown ending, or a needed column is missing.
    """
    rows = [row for _, _, rows in _read_tables(path) for row in rows]
    if not rows:
        raise UserError(f"{path} holds no rows")
    found = list(dict.fromkeys(name for row in rows for name in row))
    _check_columns(found, columns, str(path), needed, "for posts without pictures, add the column and leave it empty")
    return rows


def safe_image(value: Any, root: Path, where: str) -> Path | bytes | None:
    """The image of a table's cell: bytes as they are, a path only if it stays inside `root`; empty means no image.

    Raises:
        UserError: the path is a URL, or leaves the folder.
    """
    if isinstance(value, dict):  # `datasets` images: {"bytes", "path"}
        value = value.get("bytes") or value.get("path")
    if value is None or value == "" or isinstance(value, bytes):
        return value or None
    if "://" in str(value):
        raise UserError(f"{where}: {value!r} is a URL; nothing is fetched, save the image and give its path")
    path = (root / str(value)).resolve()
    if not path.is_relative_to(root.resolve()):
        raise UserError(f"{where}: the image {str(value)!r} lies outside {root}; give --image-dir, or a path inside it")
    return path


def split_rows(labels: list[str], how: str, seed: int) -> list[str]:
    """A split name per row, 8:1:1 within each class: `stratified` shuffles with `seed`, `file-order` does not.

    Raises:
        UserError: a class is too small to be in all three splits.
    """
    import numpy as np

    small = [name for name, count in Counter(labels).items() if count < 10]
    if small:
        raise UserError(f"cannot split 8:1:1: fewer than 10 rows of {', '.join(small)}; add a split column")
    generator = np.random.default_rng(seed)
    result = np.empty(len(labels), dtype=object)
    for name in sorted(set(labels)):
        rows = np.flatnonzero(np.array(labels) == name)
        if how == "stratified":
            rows = generator.permutation(rows)
        tenth = round(len(rows) / 10)
        result[rows] = "train"
        result[rows[-2 * tenth : -tenth]] = "validation"
        result[rows[-tenth:]] = "test"
    return list(result)


def _giveaway(text: str, filter: str) -> str | None:
    if filter == "none":
        return None
    found = text.split() if filter == "tokens" else [word for word in MMSD_FILTER if word in text]
    return next((word for word in found if word in MMSD_FILTER), None)


def _existing(path: Path, what: str) -> Path:
    if not path.is_file():
        raise UserError(f"{path} not found: SOURCE must hold {what}")
    return path


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None


def _read_joint_labels(path: Path) -> Iterator[tuple[str, tuple[str, dict[str, str]]]]:
    """Per id the joint label, or the reason why there is none, and the label of each modality."""
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")[1:], 2):
        if not line.strip():
            continue
        id, *annotators = line.split("\t")
        pairs = [pair.strip().split(",") for pair in annotators if pair.strip()]
        if not pairs or any(len(pair) != 2 or not set(pair) <= set(MVSA_LABELS) for pair in pairs):
            raise UserError(f"{path}:{number}: expected id<TAB>text_label,image_label …, found {line[:80]!r}")
        text, image = (_majority([pair[side] for pair in pairs]) for side in (0, 1))
        if text is None or image is None:
            yield id.strip(), ("annotators disagree", {})
        else:
            yield id.strip(), (_joint(text, image), {"text_label": text, "image_label": image})


def _majority(votes: list[str]) -> str | None:
    label, count = Counter(votes).most_common(1)[0]
    return label if count * 2 > len(votes) else None


def _joint(text: str, image: str) -> str:
    if text == image:
        return text
    if "neutral" in (text, image):
        return image if text == "neutral" else text
    return "text and image contradict"


def _read_split_lists(folder: Path) -> dict[str, dict[str, str | None]]:
    lists: dict[str, dict[str, str | None]] = {}
    for split, names in SPLIT_NAMES.items():
        paths = [folder / f"{name}{ending}" for name in names for ending in (".json", ".txt")]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            raise UserError(f"{folder} holds no list for {split!r}; looked for {', '.join(p.name for p in paths)}")
        entries = _read_json(path) if path.suffix == ".json" else path.read_text(encoding="utf-8").split()
        lists[split] = dict(_split_entry(entry, path) for entry in entries)
        if len(lists[split]) < len(entries):
            raise UserError(f"{path} names an id twice")
    ids = [id for entries in lists.values() for id in entries]
    if len(set(ids)) < len(ids):
        twice = [id for id, count in Counter(ids).items() if count > 1]
        raise UserError(f"{folder}: {len(twice)} ids are in two splits, the first: {', '.join(twice[:5])}")
    return lists


def _split_entry(entry: Any, path: Path) -> tuple[str, str | None]:
    if not isinstance(entry, dict):
        return str(entry), None
    try:
        return str(entry["id"]), dict(enumerate(MVSA_LABELS))[entry["emotion_label"]]
    except (KeyError, TypeError):
        raise UserError(f"{path}: expected id and emotion_label 0, 1 or 2, found {str(entry)[:80]}") from None


def _decode(data: bytes) -> str:
    """MVSA texts are utf-8 or gb18030; latin-1 reads anything that is neither."""
    for encoding in ("utf-8", "gb18030"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")


def _read_tables(path: Path) -> list[tuple[str | None, str, list[dict[str, Any]]]]:
    """`(split or None, file name, rows)` of a file, or of a folder with a file per split."""
    if path.is_file():
        return [(None, str(path), _read_rows(path))]
    if not path.is_dir():
        raise UserError(f"{path} not found: give a CSV, TSV, JSONL or Parquet file")
    found: list[tuple[str | None, str, list[dict[str, Any]]]] = []
    for split, names in SPLIT_NAMES.items():
        files = [file for file in sorted(path.iterdir()) if file.stem in names and file.suffix in _READERS]
        found += [(split, str(file), _read_rows(file)) for file in files]
    return found or _read_hub(str(path))


def _read_rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix not in _READERS:
        raise UserError(f"{path}: unknown ending {path.suffix!r}; read are {', '.join(_READERS)}")
    try:
        return _READERS[path.suffix](path)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None


def _read_csv(path: Path, delimiter: str = ",") -> list[dict[str, Any]]:
    csv.field_size_limit(10_000_000)
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter, strict=True)
        rows = []
        for row in _told(reader, path):
            if None in row or None in row.values():
                raise UserError(
                    f"{path}:{reader.line_num}: {len(row)} fields expected as in the header, found more or fewer; "
                    "quote texts that contain the separator or line breaks"
                )
            if delimiter == "\t" and any("\t" in cell for cell in row.values()):
                raise UserError(f"{path}:{reader.line_num}: a quote swallowed a tab; double each quote inside a text")
            rows.append(row)
    return rows


def _told(reader: Any, path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a csv reader; what it cannot parse is an error with its line."""
    try:
        yield from reader
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: {error}; double each quote inside a quoted text") from None


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise UserError(f"{path}:{number}: not a JSON object: {error}") from None
    return rows


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pylist()


_READERS = {
    ".csv": _read_csv,
    ".tsv": lambda path: _read_csv(path, "\t"),
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}


def _read_hub(source: str) -> list[tuple[str | None, str, list[dict[str, Any]]]]:
    """Whatever `datasets.load_dataset` reads: a local folder (imagefolder) or a hub name; class numbers become names."""
    from datasets import ClassLabel, Image, load_dataset

    try:
        splits = load_dataset(source)
    except Exception as error:  # the reasons are many (network, layout, gated); the fix is the same
        raise UserError(f"{source} is neither a file nor a data set that `datasets` can load: {error}") from None
    found = []
    for split, rows in splits.items():
        for name, feature in rows.features.items():
            if isinstance(feature, Image):
                rows = rows.cast_column(name, Image(decode=False))
        names = {name: feature.names for name, feature in rows.features.items() if isinstance(feature, ClassLabel)}
        found.append(
            (
                _split_name(split, source) if len(splits) > 1 else None,
                source,
                [
                    {key: _class_name(value, names[key]) if key in names else value for key, value in row.items()}
                    for row in rows
                ],
            )
        )
    return found


def _class_name(number: int | None, names: list[str]) -> str | None:
    """Unlabelled rows carry None or -1."""
    return None if number is None or number < 0 else names[number]


def _split_name(name: str, where: str) -> str:
    for split, names in SPLIT_NAMES.items():
        if str(name).lower() in names:
            return split
    raise UserError(f"{where}: unknown split {name!r}; allowed: {', '.join(SPLITS)}")


def _check_columns(
    found: list[str], columns: dict[str, str], name: str, needed: tuple[str, ...], without_image: str
) -> None:
    from difflib import get_close_matches

    for ours in needed:
        if columns[ours] not in found:
            free = [other for other in found if other not in columns.values()]
            near = get_close_matches(columns[ours], found, 1) or (free if len(free) == 1 else [])
            hint = f"did you mean --{ours}-column {near[0]}?" if near else f"name it with --{ours}-column"
            hint += f"; {without_image}" if ours == "image" else ""
            raise UserError(f"{name}: no column {columns[ours]!r} for the {ours}; found {', '.join(found)}; {hint}")


def as_text(value: Any) -> str:
    """A cell as text; empty for None."""
    return "" if value is None else str(value)
