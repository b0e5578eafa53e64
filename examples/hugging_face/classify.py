"""A run through Hugging Face's classes: the pipeline for answers, the Auto classes for logits. Nothing is downloaded.

python examples/hugging_face/classify.py RUN posts.csv
"""

import csv
import sys
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoProcessor, pipeline

import clfa.serving.hub  # noqa: F401  # registers the classes; a run brings no code of its own


def main(run: str, table: str) -> None:
    with open(table, encoding="utf-8", newline="") as file:
        posts = [{"text": row["text"], "image": str(Path(table).parent / row["image"])} for row in csv.DictReader(file)]
    classify = pipeline("post-classification", model=run)
    for post, (best,) in zip(posts, classify(posts)):
        print(f"{best['label']}\t{best['score']:.6f}\t{post['text']}")
    model, processor = AutoModelForSequenceClassification.from_pretrained(run), AutoProcessor.from_pretrained(run)
    with torch.no_grad():
        logits = model(**processor(posts)).logits
    print({name: round(logits[0, place].item(), 4) for place, name in model.config.id2label.items()}, "of the first")


if __name__ == "__main__":
    main(*sys.argv[1:])
