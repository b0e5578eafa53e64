"""What a cell of each kind holds: how a user's value becomes one, what a modality reads of it, what stands for none.

Neither PyTorch nor transformers is needed, so that an exported model reads posts as training did, by the same functions.
"""

import io
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from clfa.config import ModalityConfig, ModelConfig
from clfa.data.columns import as_cell
from clfa.data.images import open_image, read_image, refuse_url, to_rgb
from clfa.data.records import normalise_text
from clfa.errors import UserError

WINDOW = 2_048
"""Posts that are sorted by length together."""
HASHTAG = re.compile(r"#\s?(\w+)")

Post = Mapping[str, Any]


def hashtags(text: str) -> str | None:
    """The words behind `#` (also `# word`, as MMSD writes it), with spaces; `None` if there are none."""
    return " ".join(HASHTAG.findall(text)) or None


def without_hashtags(text: str) -> str:
    """The text with its hashtags taken out, words included; empty if there is nothing else."""
    return " ".join(re.sub(r"(?:#\s?)+\w*", " ", text).split())


PARTS: dict[str, Callable[[str], str | None]] = {
    "all": str,
    "hashtags": hashtags,
    "without_hashtags": without_hashtags,
}
"""What `ModalityConfig.part` takes of a text."""


class Cells(ABC):
    """The cells of one kind: texts, or bytes."""

    name: str
    """Of the kind: in configurations and in the keys of caches."""
    in_files: bool = False
    """Whether the cells of a table name files."""
    blank: Any
    """Decoded stand-in for a missing value, so that shapes hold; its mask says that it is not there."""
    silent: Any
    """A cell that says nothing: an empty text, a grey image."""

    @abstractmethod
    def clean(self, value: Any, text_cleaning: str) -> Any:
        """A user's value as a dataset directory holds it; `None` where there is none.

        Raises:
            UserError: the value cannot be read.
        """

    def read(self, cell: Any, modality: ModalityConfig) -> str | bytes | None:
        """The value of a stored cell for one modality; `None` where the post has none."""
        return cell

    def decode(self, value: Any) -> Any:
        """What a preparer takes."""
        return value


class TextCells(Cells):
    """Texts."""

    name = "text"
    blank = silent = ""

    def clean(self, value: Any, text_cleaning: str) -> str | None:
        """The text, normalised unless the training set was `raw`; bytes are refused."""
        cell = as_cell(value)
        if isinstance(cell, bytes):
            raise UserError(f"a text was expected, found {len(cell):,} bytes")
        return None if cell is None else normalise_text(cell) if text_cleaning == "normalised" else cell

    def read(self, cell: Any, modality: ModalityConfig) -> str | None:
        """The text, or the part of it that the modality reads."""
        return cell if cell is None else PARTS[modality.part](cell)


class ImageCells(Cells):
    """Images. A cell is `{"bytes": …, "path": None}`, as the library `datasets` stores it."""

    name, in_files = "image", True
    blank = Image.new("RGB", (32, 32))

    def __init__(self) -> None:
        self.silent = {"bytes": _stored(Image.new("RGB", (224, 224), (127, 127, 127))), "path": None}

    def clean(self, value: Any, text_cleaning: str) -> dict[str, Any] | None:
        """Checked bytes of a path, of bytes, of a PIL image or of a cell."""
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if value is None or (isinstance(value, str) and not value) or (isinstance(value, float) and value != value):
            return None
        if isinstance(value, Image.Image):
            return {"bytes": _stored(to_rgb(ImageOps.exif_transpose(value))), "path": None}
        if isinstance(value, (bytes, bytearray, memoryview)):
            return {"bytes": read_image(bytes(value)), "path": None}
        if not isinstance(value, (str, Path)):
            raise UserError(f"an image is a path, bytes or a PIL image, found {type(value).__name__}", "image-path")
        refuse_url(value)
        return {"bytes": read_image(Path(value)), "path": None}

    def read(self, cell: Any, modality: ModalityConfig) -> bytes | None:
        return cell["bytes"] if isinstance(cell, dict) else cell

    def decode(self, value: bytes) -> Image.Image:
        """The RGB image."""
        return open_image(value)


def _stored(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


class ByKind(dict[str, Any]):
    """Something for each kind, by its name; an unknown name is a `UserError`."""

    def __missing__(self, name: str) -> Any:
        raise UserError(f"unknown kind {name!r} of a modality; allowed: {', '.join(self)}")


CELLS = ByKind({cells.name: cells for cells in (TextCells(), ImageCells())})


def clean_post(post: Post, config: ModelConfig, text_cleaning: str) -> dict[str, Any]:
    """A user's post as a row: texts cleaned as in training, images as checked bytes; other columns as they are.

    Raises:
        UserError: a value cannot be read, such as an image that is missing on disk.
    """
    row = {"text": "", **post}
    row.pop("label", None)
    for name, modality in config.modalities.items():
        column = config.column(name)
        row[column] = CELLS[modality.kind].clean(row.get(column), text_cleaning)
    return row | {"text": row["text"] or ""}


def value_of(row: Post, name: str, config: ModelConfig) -> str | bytes | None:
    """The text or the undecoded bytes of a row that a modality reads; `None` where the post has none.

    An empty text may be missing, too: see `ModelConfig.empty_is_missing`.
    """
    modality = config.modalities[name]
    value = CELLS[modality.kind].read(row.get(config.column(name)), modality)
    return None if not value and config.empty_is_missing(name) else value


def by_length(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Places of posts that share a batch: windows of `WINDOW` posts, sorted by the length of the text."""
    for start in range(0, len(lengths), WINDOW):
        window = sorted(range(start, min(len(lengths), start + WINDOW)), key=lambda place: lengths[place])
        for first in range(0, len(window), batch_size):
            yield window[first : first + batch_size]
