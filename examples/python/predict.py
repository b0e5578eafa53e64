"""A trained run from Python: posts of a table, one alone, and what the model reads of a post.

python examples/python/predict.py RUN posts.csv
"""

import sys
from pathlib import Path

import pandas as pd

from clfa import Predictor


def main(run: str, table: str) -> None:
    predictor = Predictor(run)  # of a run, or of an export without PyTorch; several threads may share it
    posts = pd.read_csv(table)
    posts["image"] = [str(Path(table).parent / path) for path in posts["image"]]
    probabilities = predictor.predict_proba(posts)  # (posts, classes), as scikit-learn has it
    print(dict(zip(predictor.class_names, probabilities.mean(0).round(3).tolist())), "in the mean")
    answer = predictor.one({"text": posts["text"][0], "image": posts["image"][0]})
    print(answer.predicted, answer.probabilities)
    print(predictor.one({"text": posts["text"][0]}).predicted, "from the text alone")
    print({name: values.shape for name, values in predictor.embed(posts).items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
