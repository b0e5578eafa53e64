"""A labelled pandas DataFrame: classes and probabilities as scikit-learn has them, and scikit-learn's metrics of them.

python examples/python/dataframe.py RUN posts.csv
"""

import sys
from pathlib import Path

import pandas as pd
from sklearn.metrics import classification_report, log_loss

from clfa import Predictor


def main(run: str, table: str) -> None:
    predictor = Predictor(run)
    posts = pd.read_csv(table)
    posts["image"] = [str(Path(table).parent / path) for path in posts["image"]]
    posts["predicted"] = predictor.predict(posts)
    probabilities = predictor.predict_proba(posts)  # columns in the order of classes_
    posts["probability"] = probabilities.max(1)
    print(pd.crosstab(posts["label"], posts["predicted"]), "\n")
    print(classification_report(posts["label"], posts["predicted"], digits=3))
    print(f"log loss {log_loss(posts['label'], probabilities, labels=predictor.classes_):.4f}\n")
    print("it is least sure of")
    print(posts.nsmallest(3, "probability")[["id", "text", "label", "predicted", "probability"]].to_string(index=False))


if __name__ == "__main__":
    main(*sys.argv[1:])
