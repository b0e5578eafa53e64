"""Options of several commands, with their help."""

from collections.abc import Sequence
from typing import Annotated, Literal

from clfa.errors import UserError

DatasetDir = Annotated[str, "Dataset directory."]
NewDataset = Annotated[str, "Dataset directory to write."]
RunDir = Annotated[str, "Run directory."]
ImageFolder = Annotated[str | None, "Folder of images; `none` for texts alone. Default: SOURCE/images."]
Cleaning = Annotated[Literal["normalised", "raw"], "`normalised` (NFC, white space collapsed) or `raw`."]
OnBad = Annotated[
    Literal["fail", "skip", "mask"],
    "Posts that cannot be used: `fail`, `skip` and list them in dropped.jsonl, or `mask`: leave bad images out.",
]
MaxBad = Annotated[float, "With skip and mask: fail if more than this share of the posts is bad, or 100 in a row."]
IdColumn = Annotated[str, "Column of the id."]
TextColumn = Annotated[str, "Column of the text."]
ImageColumn = Annotated[str, "Column of the image's path."]


def further_columns(pairs: Sequence[str]) -> dict[str, str]:
    """`NAME=COLUMN` -> name and column; a pair that is none, or a name given twice, is a UserError."""
    named: dict[str, str] = {}
    for pair in pairs:
        name, _, column = pair.partition("=")
        if not name or not column:
            raise UserError(f"--column {pair}: write NAME=COLUMN, for example --column ocr=ocr_text")
        if name in named:
            raise UserError(f"--column {pair}: {name} is {named[name]} already; choose another name")
        named[name] = column
    return named
