"""The client of Triton (`pip install 'tritonclient[http]'`) asks `clfa serve`, by the Open Inference Protocol.

python examples/open_inference/ask.py 127.0.0.1:8000 MODEL posts.csv

MODEL is the name of the run's folder; texts and images go as bytes.
"""

import csv
import sys
from pathlib import Path

import numpy as np
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

TOGETHER = 32  # posts a request, at most


def main(service: str, model: str, table: str) -> None:
    client = InferenceServerClient(service)
    outputs = [InferRequestedOutput(name, binary_data=False) for name in ("predicted", "probabilities")]
    with open(table, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for start in range(0, len(rows), TOGETHER):
        some = rows[start : start + TOGETHER]
        images = [(Path(table).parent / row["image"]).read_bytes() if row["image"] else b"" for row in some]
        inputs = [InferInput(name, [len(some)], "BYTES") for name in ("text", "image")]
        inputs[0].set_data_from_numpy(np.array([row["text"].encode() for row in some], dtype=object))
        inputs[1].set_data_from_numpy(np.array(images, dtype=object))
        answer = client.infer(model, inputs, outputs=outputs)
        for predicted, row in zip(answer.as_numpy("predicted"), answer.as_numpy("probabilities")):
            print(predicted, row.max().round(6))


if __name__ == "__main__":
    main(*sys.argv[1:])
