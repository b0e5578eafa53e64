"""clfa on a table of posts, by its commands: `train`, both encoders fine-tuned, or `fit`, which decides by itself.

Started in the folder of the table, with the environment of clfa (see run.py). `fit` has minutes, and no seed or epochs.
"""

import csv
import os
import subprocess
import sys
from pathlib import Path

import measure

# user code begins: train
CONFIG = """
data: {path: WORK/data}
output: WORK/run
model:
  dim: 384
  projection_hidden: 0
  modalities:
    text: {kind: text, encoder: TEXT, averaged: true}
    image: {kind: image, encoder: IMAGE, averaged: true}
  fusion: {name: concat}
loss: {alignment_weight: 0}
train:
  epochs: EPOCHS
  batch_size: BATCH
  encoder_learning_rate: 1.0e-4
  head_learning_rate: 1.0e-3
  layer_decay: 0.9
  warmup: 0.1
seed: SEED
"""
TRAIN = """
clfa import table posts.csv --out WORK/data
clfa train --config WORK/my.yaml
clfa predict WORK/run --input test.csv --output WORK/predicted.csv
"""
# user code ends
# user code begins: fit
FIT = """
clfa fit posts.csv --out WORK/run --text-encoder TEXT --image-encoder IMAGE --minutes MINUTES
clfa predict WORK/run --input test.csv --output WORK/predicted.csv
"""
# user code ends


def main() -> None:
    parser = measure.options(__doc__)
    parser.add_argument("--way", choices=("train", "fit"), default="train")
    parser.add_argument("--minutes", type=float, default=3.0, help="of `clfa fit`")
    options = parser.parse_args()
    options.work.mkdir(parents=True)
    values = {name.upper(): str(value) for name, value in vars(options).items()}
    (options.work / "my.yaml").write_text(filled(CONFIG, values))
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for command in filled({"train": TRAIN, "fit": FIT}[options.way], values).strip().splitlines():
        subprocess.run(command.split(), check=True, env={**os.environ, **path})

    from clfa import __version__

    true = {row["id"]: row["label"] for row in rows(Path("test.csv"))}
    predicted = {row["id"]: row["predicted"] for row in rows(options.work / "predicted.csv")}
    measure.record(options.out, __version__, list(true.values()), [predicted[id] for id in true])


def filled(text: str, values: dict[str, str]) -> str:
    """A text with the words in capitals replaced."""
    for name, value in values.items():
        text = text.replace(name, value)
    return text


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()
