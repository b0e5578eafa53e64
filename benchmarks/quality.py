"""Do fast answers cost quality? The test answers of trained runs, by PyTorch in fp32, in bf16, by ONNX, by ONNX in int8.

    clfa sweep --config configs/mvsa_single/precision.yaml
    python benchmarks/quality.py --runs runs/mvsa_single/precision/fp32 --json docs/results/quality.json

Runs are the seeds of one system; differences are paired by post and seed, as `clfa compare` has them.
"""

import argparse
import shutil
import tempfile
from datetime import date
from pathlib import Path

import numpy as np

from clfa.data.atomic import write_json
from clfa.data.splits import load_rows
from clfa.evidence.compare import differences, system_scores
from clfa.evidence.results import as_dict
from clfa.evidence.systems import System
from clfa.model.pipeline import Pipeline
from clfa.runs import Run
from clfa.serving.onnx import OnnxPipeline
from clfa.studies.export import quantise, write_export

WAYS = ("fp32", "bf16", "ONNX", "ONNX int8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    runs = [Run(path.parent) for path in sorted(options.runs.glob("*/model.json"))]
    logits: dict[str, list[np.ndarray]] = {way: [] for way in WAYS}
    for run in runs:
        rows = load_rows(run.config().data, "test")
        for way, result in answers(run, rows).items():
            logits[way].append(result)
        print(run, *(f"{way} {np.abs(result[-1] - logits['fp32'][-1]).max():.2g}" for way, result in logits.items()))
    names = Pipeline.load(runs[0].path).class_names
    ids, labels, seeds = list(rows["id"]), rows.labels, [run.config().seed for run in runs]
    systems = [System(way, ids, names, labels, np.stack([one.argmax(1) for one in logits[way]]), seeds) for way in WAYS]
    compared = differences(systems[0], systems[1:], "macro_f1")
    result = {
        "date": date.today().isoformat(),
        "posts": len(ids),
        "systems": [as_dict(system_scores(system)) for system in systems],
        "differences": [as_dict(one) for one in compared],
        "largest_difference_of_a_logit": {
            way: max(float(np.abs(one - other).max()) for one, other in zip(logits[way], logits["fp32"]))
            for way in WAYS
        },
        "labels_that_differ": {
            way: float(
                np.mean([(one.argmax(1) != other.argmax(1)).mean() for one, other in zip(logits[way], logits["fp32"])])
            )
            for way in WAYS
        },
    }
    write_json(options.json, result)
    for one in compared:
        print(one.verdict)


def answers(run: Run, rows) -> dict[str, np.ndarray]:
    """Way -> logits of all rows, each encoded anew."""
    pipeline = Pipeline.load(run.path)
    result = {"fp32": pipeline.logits(rows).numpy()}
    result["bf16"] = Pipeline.load(run.path, precision="bf16").logits(rows).numpy()
    for way in WAYS[2:]:
        folder = Path(tempfile.mkdtemp())
        try:
            write_export(pipeline, [dict(row) for row in rows[:32]], folder)
            if way == "ONNX int8":
                quantise(folder)
            result[way] = np.asarray(OnnxPipeline(folder).logits([dict(row) for row in rows], ""))
        finally:
            shutil.rmtree(folder)
    return result


if __name__ == "__main__":
    main()
