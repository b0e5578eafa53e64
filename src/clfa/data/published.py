"""Research data sets as published -> rows `(split, Record, Dropped or Bad)`, exactly one for each row of the source.

Each reader returns `(rows, class_names, description)`, ready for `clfa.data.writing.write_dataset`; without a folder of
images it reads texts only.
"""

import ast
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from clfa.data.drawing import describe_unsplit, group_repeats, split_rows
from clfa.data.images import safe_image
from clfa.data.progress import track
from clfa.data.records import Bad, Dropped, Record, Source
from clfa.errors import UserError

log = logging.getLogger(__name__)

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


def read_mmsd(source: Path, images: Path | None, filter: str = "tokens") -> tuple[Source, list[str], dict[str, Any]]:
    """MMSD (Cai et al. 2019): one Python list a line, `[id, text, label]` or `[id, text, hashtag, annotator]`.

    Images are `<id>.jpg`. `filter`: `tokens` drops posts that contain one of the label-giving words as a token
    (19,816/2,410/2,409 remain), `substrings` anywhere in the text (19,557/2,387/2,373, as some later papers did), `none`
    keeps all.

    Raises:
        UserError: a file is missing or a line is not such a list (file and line number are named).
    """

    def rows() -> Source:
        for split, name in MMSD_FILES.items():
            path = _existing(source / name, "train.txt, valid2.txt and test2.txt of MMSD")
            for number, line in enumerate(path.read_text(encoding="utf-8").rstrip("\n").split("\n"), 1):
                try:
                    id, text, *labels = ast.literal_eval(line)
                    label = NUMBERED[labels[-1]]
                    extra = {"hashtag_label": NUMBERED[labels[0]]} if len(labels) == 2 else {}
                except (ValueError, SyntaxError, IndexError, TypeError, KeyError):
                    yield (
                        split,
                        _unreadable(f"{path}:{number}", f"expected a list [id, text, label], found {line[:80]!r}"),
                    )
                    continue
                where = f"{name}:{number}"
                word = _giveaway(text, filter)
                if word:
                    yield split, Dropped(str(id), split, f"contains {word!r}", where)
                else:
                    yield split, _post(str(id), split, text, images, label, extra, where)

    filters = [f"giveaway words as {filter}"] if filter != "none" else []
    return rows(), MMSD_LABELS, {"name": "mmsd", "filters": filters, "columns": {"hashtag_label": "string"}}


def read_mmsd2(source: Path, images: Path | None) -> tuple[Source, list[str], dict[str, Any]]:
    """MMSD2.0 (Qin et al. 2023): JSON lists of `{"image_id", "text", "label"}`, images `<image_id>.jpg`.

    Raises:
        UserError: a file is missing or an entry lacks a field.
    """

    def rows() -> Source:
        for split, name in MMSD2_FILES.items():
            path = _existing(source / name, "train.json, valid.json and test.json of MMSD2.0")
            for number, entry in enumerate(_read_json(path)):
                try:
                    id, text, label = str(entry["image_id"]), entry["text"], NUMBERED[entry["label"]]
                except (KeyError, IndexError, TypeError):
                    wrong = f"expected image_id, text and label 0 or 1, found {str(entry)[:80]}"
                    yield split, _unreadable(f"{path}, entry {number}", wrong)
                    continue
                yield split, _post(id, split, text, images, label, {}, f"{name}, entry {number}")

    return rows(), MMSD_LABELS, {"name": "mmsd2", "filters": []}


def read_mvsa(
    source: Path, images: Path | None, split_dir: Path | None = None, split: str = "stratified", seed: int = 0
) -> tuple[Source, list[str], dict[str, Any]]:
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
        path = source / "data" / f"{id}.txt"
        if not path.is_file():
            raise UserError(f"{path} not found: each post of MVSA has its text there", "text-missing")
        return _decode(path.read_bytes()).strip()

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
            (text_of(id) if (source / "data" / f"{id}.txt").is_file() else "", images and images / f"{id}.jpg")
            for id in track(labelled, f"comparing the posts of {source}", len(labelled))
        )
        groups = group_repeats(posts) if split == "stratified" else None
        split_of = dict(zip(labelled, split_rows(list(labelled.values()), split, seed, groups)))
        numbers = np.array([MVSA_LABELS.index(label) for label in labelled.values()], dtype=np.int64)
        notes = describe_unsplit(numbers, np.array([name == "train" for name in split_of.values()]), MVSA_LABELS)
        for note in notes:
            log.warning("%s: %s", source, note)

    def rows() -> Source:
        for id, (label, extra) in joint.items():
            if isinstance(label, UserError):
                yield "all", Bad(id, "all", label, "labelResultAll.txt")
            elif label not in MVSA_LABELS:
                yield "all", Dropped(id, "all", label, "labelResultAll.txt")
            elif id not in split_of:
                yield "all", Dropped(id, "all", "in no split file", str(split_dir))
            else:
                try:
                    text = text_of(id)
                except UserError as error:
                    yield split_of[id], Bad(id, split_of[id], error, f"data/{id}.txt")
                else:
                    yield split_of[id], _post(id, split_of[id], text, images, label, extra, f"data/{id}.txt")

    drawn = f"stratified, seed {seed}, repeated posts in one split" if split == "stratified" else split
    how = "given split files" if lists else drawn
    filters = ["positive against negative dropped", "majority of annotators"] if result.is_file() else []
    columns = {"text_label": "string", "image_label": "string"} if result.is_file() else {}
    return rows(), MVSA_LABELS, {"name": "mvsa", "filters": filters + notes, "split": how, "columns": columns}


def _joint_labels(
    result: Path, lists: dict[str, dict[str, str | UserError | None]] | None
) -> dict[str, tuple[str | UserError, dict[str, Any]]]:
    """Id -> joint label (or what is wrong with its line) and those of text and image, from the annotators' file or else
    from the lists of splits."""
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


def _post(
    id: str, split: str, text: str, images: Path | None, label: str, values: dict[str, Any], where: str
) -> Record | Bad:
    """A post whose image is `<id>.jpg` in the folder of images, where there is one."""
    post = Record(id, text, None, label, values, where)
    try:
        return replace(post, image=safe_image(f"{id}.jpg", images, where)) if images else post
    except UserError as error:
        return Bad(id, split, error, where, post)


def _unreadable(where: str, wrong: str) -> Bad:
    return Bad("", "all", UserError(f"{where}: {wrong}", "file-unreadable"), where)


def _read_joint_labels(path: Path) -> Iterator[tuple[str, tuple[str | UserError, dict[str, str]]]]:
    """Per id the joint label, why there is none or what is wrong with its line; and the label of each modality."""
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")[1:], 2):
        if not line.strip():
            continue
        id, *annotators = line.split("\t")
        pairs = [pair.strip().split(",") for pair in annotators if pair.strip()]
        if not pairs or any(len(pair) != 2 or not set(pair) <= set(MVSA_LABELS) for pair in pairs):
            wrong = f"{path}:{number}: expected id<TAB>text_label,image_label …, found {line[:80]!r}"
            yield id.strip(), (UserError(wrong, "file-unreadable"), {})
            continue
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


def _read_split_lists(folder: Path) -> dict[str, dict[str, str | UserError | None]]:
    lists: dict[str, dict[str, str | UserError | None]] = {}
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


def _split_entry(entry: Any, path: Path) -> tuple[str, str | UserError | None]:
    """An id, and its label where the list gives one, or what is wrong with it."""
    if not isinstance(entry, dict):
        return str(entry), None
    if "id" not in entry:
        raise UserError(f"{path}: expected id and emotion_label 0, 1 or 2, found {str(entry)[:80]}")
    number = entry.get("emotion_label")
    label = dict(enumerate(MVSA_LABELS)).get(number) if isinstance(number, int) else None
    wrong = f"{path}: the emotion_label of {entry['id']} is {number!r}; allowed are 0, 1 and 2"
    return str(entry["id"]), label or UserError(wrong, "label-unknown")


def _decode(data: bytes) -> str:
    """MVSA texts are utf-8 or gb18030; latin-1 reads anything that is neither."""
    for encoding in ("utf-8", "gb18030"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")
