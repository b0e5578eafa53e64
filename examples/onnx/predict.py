"""An export, with `pip install 'clfa[onnx]'` alone: neither PyTorch nor transformers is installed where it answers.

clfa export RUN --format onnx
python examples/onnx/predict.py RUN/onnx posts.csv
"""

import csv
import sys
import time
from pathlib import Path

from clfa import Predictor


def main(export: str, table: str) -> None:
    with open(table, encoding="utf-8", newline="") as file:
        posts = [{"text": row["text"], "image": Path(table).parent / row["image"]} for row in csv.DictReader(file)]
    predictor = Predictor(export)
    begun = time.perf_counter()
    answers = predictor(posts)
    seconds = time.perf_counter() - begun
    for post, answer in zip(posts, answers):
        print(f"{answer.predicted}\t{max(answer.probabilities.values()):.6f}\t{post['text']}")
    loaded = [name for name in ("torch", "transformers") if name in sys.modules]
    print(f"{len(posts)} posts in {seconds:.2f} s with {' and '.join(loaded) or 'neither torch nor transformers'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
