"""Research data sets as published -> rows `(split, Record | Dropped)`, exactly one for each row of the source.

Each reader returns `(rows, class_names, description)`, ready for `clfa.data.records.write_dataset`; without a folder of
images it reads texts only.
"""

import ast
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clfa.data.drawing import describe_unsplit, group_repeats, split_rows
from clfa.data.progress import track
from clfa.data.records import Dropped, Record
from clfa.errors import UserError

log = logging.getLogger(__name__)
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

    Images are `<id>.jpg`. `filter`: `tokens` drops posts that contain one of the label-giving words as a token
    (19,816/2,410/2,409 remain), `substrings` anywhere in the text (19,557/2,387/2,373, as some later papers did), `none`
    keeps all.

    Raises:
        UserError: a file is missing or a line is not such a list (file and line number are named).
    """

    def rows() -> Rows:
        for split, name in MMSD_FILES.items():
            path = _existing(source / name, "train.txt, valid2.txt and test2.txt of MMSD")
            for number, line in enumerate(path.read_text(encoding="utf-8").rstrip("\n").split("\n"), 1):
                try:
                    id, text, *labels = ast.literal_eval(line)
                    label = NUMBERED[labels[-1]]
                    extra = {"hashtag_label": NUMBERED[labels[0]]} if len(labels) == 2 else {}
                except (ValueError, SyntaxError, IndexError, TypeError, KeyError):
                    problem = f"expected a list [id, text, label], found {line[:80]!r}"
                    raise UserError(f"{path}:{number}: {problem}") from None
                word = _giveaway(text, filter)
                if word:
                    yield split, Dropped(str(id), split, f"contains {word!r}", f"{name}:{number}")
                else:
                    yield split, Record(str(id), text, images and images / f"{id}.jpg", label, extra)

    filters = [f"giveaway words as {filter}"] if filter != "none" else []
    return rows(), MMSD_LABELS, {"name": "mmsd", "filters": filters, "columns": {"hashtag_label": "string"}}


def read_mmsd2(source: Path, images: Path | None) -> tuple[Rows, list[str], dict[str, Any]]:
    """MMSD2.0 (Qin et al. 2023): JSON lists of `{"image_id", "text", "label"}`, images `<image_id>.jpg`.

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
                    problem = f"expected image_id, text and label 0 or 1, found {str(entry)[:80]}"
                    raise UserError(f"{path}, entry {number}: {problem}") from None
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
        images: folder of `<id>.jpg`.
        split_dir: folder with `train`, `dev`/`valid`/`validation` and `test` as `.json` (list of ids or of
            `{"id", "emotion_label"}`, 0 positive, 1 neutral, 2 negative) or `.txt` (an id a line). Its labels are used
            where `labelResultAll.txt` is absent.
        split: without `split_dir`: `stratified` (8:1:1, drawn with `seed`) or `file-order` (the last tenth of each class
            is test, the tenth before it validation, as in the paper's released code).
        seed: seed of the stratified split, which keeps posts that repeat each other in one split (see `group_repeats`).

    Raises:
        UserError: a file is missing, a label is unknown, or there are neither labels nor a split file with labels.
    """

    def text_of(id: str) -> str:
        path = _existing(source / "data" / f"{id}.txt", "the data folder of MVSA")
        return _decode(path.read_bytes()).strip()

    def image_of(id: str) -> Path | None:
        return images and images / f"{id}.jpg"

    notes: list[str] = []
    result = source / "labelResultAll.txt"
    lists = _read_split_lists(split_dir) if split_dir else None
    joint = _joint_labels(result, lists)
    if lists:
        split_of = {id: name for name, entries in lists.items() for id in entries}
        unknown = [id for id in split_of if id not in joint]
        if unknown:
            raise UserError(f"{split_dir}: {len(unknown)} ids have no label, the first: {', '.join(unknown[:5])}")
    else:
        labelled = {id: label for id, (label, _) in joint.items() if label in MVSA_LABELS}
        posts = (
            (text_of(id), image_of(id)) for id in track(labelled, f"comparing the posts of {source}", len(labelled))
        )
        groups = group_repeats(posts) if split == "stratified" else None
        split_of = dict(zip(labelled, split_rows(list(labelled.values()), split, seed, groups)))
        numbers = np.array([MVSA_LABELS.index(label) for label in labelled.values()], dtype=np.int64)
        notes = describe_unsplit(numbers, list(split_of.values()), MVSA_LABELS)
        for note in notes:
            log.warning("%s: %s", source, note)

    def rows() -> Rows:
        for id, (label, extra) in joint.items():
            if label not in MVSA_LABELS:
                yield "all", Dropped(id, "all", label, "labelResultAll.txt")
            elif id not in split_of:
                yield "all", Dropped(id, "all", "in no split file", str(split_dir))
            else:
                yield split_of[id], Record(id, text_of(id), image_of(id), label, extra)

    drawn = f"stratified, seed {seed}, repeated posts in one split" if split == "stratified" else split
    how = "given split files" if lists else drawn
    filters = ["positive against negative dropped", "majority of annotators"] if result.is_file() else []
    columns = {"text_label": "string", "image_label": "string"} if result.is_file() else {}
    return rows(), MVSA_LABELS, {"name": "mvsa", "filters": filters + notes, "split": how, "columns": columns}


def _joint_labels(
    result: Path, lists: dict[str, dict[str, str | None]] | None
) -> dict[str, tuple[str, dict[str, Any]]]:
    """Id -> joint label and those of text and image, from the annotators' file or else from the lists of splits."""
    if result.is_file():
        labels = list(_read_joint_labels(result))
        if len(dict(labels)) < len(labels):
            raise UserError(f"{result} names an id twice")
        return dict(labels)
    if lists:
        return {id: (label, {}) for entries in lists.values() for id, label in entries.items() if label}
    raise UserError(f"{result} not found: put it there, or give --split-dir with files that carry emotion_label")


def _giveaway(text: str, filter: str) -> str | None:
    if filter == "tokens":
        return next((word for word in text.split() if word in MMSD_FILTER), None)
    if filter == "substrings":
        return next((word for word in sorted(MMSD_FILTER) if word in text), None)
    return None


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
        text, image = map(_majority, zip(*pairs))
        if text is None or image is None:
            yield id.strip(), ("annotators disagree", {})
        else:
            yield id.strip(), (_joint(text, image), {"text_label": text, "image_label": image})


def _majority(votes: Sequence[str]) -> str | None:
    label, count = Counter(votes).most_common(1)[0]
    return label if count * 2 > len(votes) else None


def _joint(text: str, image: str) -> str:
    if text == image or image == "neutral":
        return text
    return image if text == "neutral" else "text and image contradict"


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
    counts = Counter(id for entries in lists.values() for id in entries)
    twice = [id for id, count in counts.items() if count > 1]
    if twice:
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
