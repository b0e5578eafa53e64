"""A run directory: the names of its files, how it begins and ends, its predictions and the openings of the test split.

Everything is written whole or not at all (`clfa.data.atomic`), by one process.
"""

import json
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

import clfa
from clfa.config import DataConfig, RunConfig, build_config, differing, dump_config, read_yaml
from clfa.data.atomic import read_json, replacing, write_json, write_text
from clfa.data.records import load_manifest
from clfa.data.rows import Rows
from clfa.data.splits import load_rows, source_splits
from clfa.data.training_cues import CUES, TrainingCues
from clfa.errors import UserError


@dataclass(frozen=True)
class Predictions:
    """The predictions table of one run and split: N posts, C classes."""

    ids: list[str]
    """Ids of the posts, in the order of the split."""
    class_names: list[str]
    labels: NDArray[np.int64]
    """(N,) class numbers."""
    probabilities: NDArray[np.float64]
    """(N, C)."""
    predicted: NDArray[np.int64]
    """(N,) classes decided for: the most probable ones, unless the run decides otherwise (`Classifier.decide`)."""


class Run:
    """A run directory; it need not exist yet."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.config_file = self.path / "config.yaml"
        self.dataset_file = self.path / "dataset.json"
        self.environment_file = self.path / "environment.json"
        self.log_file = self.path / "log.jsonl"
        self.metrics_file = self.path / "metrics.json"
        self.model_file = self.path / "model.json"
        self.probe_file = self.path / "probe.json"
        self.cues_file = self.path / CUES
        self.leaderboard_file = self.path / "leaderboard.json"
        self.ledger_file = self.path / "test_ledger.jsonl"
        self.card_file = self.path / "README.md"
        self.checkpoints = self.path / "checkpoints"

    def predictions_file(self, split: str) -> Path:
        """`predictions/<split>.parquet`."""
        return self.path / "predictions" / f"{split}.parquet"

    def report_file(self, split: str) -> Path:
        """`report-<split>.html`."""
        return self.path / f"report-{split}.html"

    def __str__(self) -> str:
        return str(self.path)

    # ---- beginning and ending

    def begin(self, config: RunConfig, resume: bool = False) -> bool:
        """Make the directory and write `config.yaml`, `dataset.json` and `environment.json`; False if the run is finished.

        Raises:
            UserError: it holds another run, or an unfinished one and `resume` is False.
        """
        self.refuse_other(config)
        if self.is_finished:
            return False
        if not resume and self.checkpoints.is_dir():
            raise UserError(f"{self} holds an unfinished run: add --resume to go on, or delete it")
        manifest = load_manifest(config.data.path)
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.config_file, dump_config(config))
        write_json(self.dataset_file, manifest)
        write_json(self.environment_file, _environment())
        return True

    def finish(self, training: dict[str, Any]) -> None:
        """Write `metrics.json`: from here on the run is finished."""
        write_json(self.metrics_file, {"training": training})

    @property
    def is_finished(self) -> bool:
        """Whether it was trained to its end."""
        return self.metrics_file.is_file()

    def require_finished(self) -> "Run":
        """The run itself.

        Raises:
            UserError: it is not finished.
        """
        if not self.is_finished:
            raise UserError(f"{self} is not a finished run (no metrics.json): train it with `clfa train`")
        return self

    def refuse_other(self, config: RunConfig) -> None:
        """Nothing is trained into, or reported from, a run directory that was made with another configuration.

        Raises:
            UserError: it holds a run that has begun with other settings, or with other posts (they are named).
        """
        if not (self.is_finished or self.checkpoints.is_dir()) or not self.config_file.is_file():
            return
        changed = differing(self.config(), config, ignored=("output",))
        if changed:
            raise UserError(
                f"{self} holds a run with another configuration ({', '.join(list(changed)[:8])} differ): "
                "choose another output, or delete it"
            )
        other = self.changed_splits(config.data)
        if other:
            raise UserError(
                f"{self} was made from other posts ({', '.join(other)} of {config.data.path} changed since): restore "
                "them, choose another output, or delete the run"
            )

    # ---- what it holds

    def config(self) -> RunConfig:
        """Its configuration; what an older version did not know yet has its default.

        Raises:
            UserError: it cannot be read, or has settings that this version does not know (names the file).
        """
        values = read_yaml(self.config_file)
        try:
            return build_config(RunConfig, values)
        except UserError as error:
            raise UserError(f"{self.config_file}: {error}; was it written by another version of clfa?") from None

    def manifest(self) -> dict[str, Any] | None:
        """`dataset.json` of the data set as it was in training."""
        return read_json(self.dataset_file)

    def metrics(self) -> dict[str, Any]:
        """`metrics.json`: `training`, and an entry for each evaluated split."""
        return read_json(self.metrics_file) or {}

    def add_metrics(self, split: str, result: dict[str, Any]) -> None:
        """Replace the entry of one split in `metrics.json`."""
        write_json(self.metrics_file, self.metrics() | {split: result})

    def log(self) -> list[dict[str, Any]]:
        """The lines of `log.jsonl`, one an epoch."""
        return _read_lines(self.log_file)

    def changed_splits(self, data: DataConfig) -> list[str]:
        """Splits of the data set that are not what they were in training; all of them if the data set is gone."""
        recorded = self.manifest()
        if recorded is None:  # made before this was recorded
            return []
        before = recorded["splits"]
        if not (Path(data.path) / "dataset.json").is_file():
            return list(before)
        now = load_manifest(data.path)["splits"]
        return [name for name in before | now if before.get(name, {}).get("sha256") != now.get(name, {}).get("sha256")]

    def write_cues(self, cues: TrainingCues) -> None:
        """Write `cues.json`, which a service of the run reads."""
        write_json(self.cues_file, cues.described())

    # ---- the test split

    def open_split(self, data: DataConfig, split: str, purpose: str) -> Rows:
        """The rows of a split for judging the run; opening `test` leaves a line in `test_ledger.jsonl`.

        Raises:
            UserError: the data set of the run is no longer the one that it was trained on.
        """
        config = self.config()
        changed = self.changed_splits(data) if config.data == data else []
        if changed:
            raise UserError(
                f"{data.path} is not what {self} was trained on ({', '.join(changed)} differ from {self.dataset_file}): "
                "restore it or train again; to judge the run on new posts, import these to another folder and give "
                "--dataset"
            )
        rows = load_rows(data, split, config.seed)
        if (rows.labels < 0).any():
            raise UserError(
                f"{(rows.labels < 0).sum():,} posts of the split {split} of {data.path} have no label: a run is judged on "
                f"posts that have one; `clfa predict {self}` answers for others"
            )
        if split == "test":
            described = load_manifest(data.path)["splits"]
            entry = {
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
                "purpose": purpose,
                "dataset": data.path,
                "fold": data.fold if data.folds else None,
                "rows": len(rows),
                "sha256": {name: described[name]["sha256"] for name in source_splits(data, ["test"])},
                "clfa_version": clfa.__version__,
            }
            with open(self.ledger_file, "a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        return rows

    def openings(self, dataset: str) -> int:
        """How often the test split of this data set was opened for this run, by `test_ledger.jsonl`."""
        lines = _read_lines(self.ledger_file) if self.ledger_file.is_file() else []
        return sum(line["dataset"] == dataset for line in lines)

    # ---- predictions

    def write_predictions(self, split: str, predictions: Predictions) -> None:
        """Write the predictions table: `id, label, predicted, probability_<class> …, split, run`."""
        names, count = predictions.class_names, len(predictions.ids)
        columns = {
            "id": predictions.ids,
            "label": [names[number] for number in predictions.labels],
            "predicted": [names[number] for number in predictions.predicted],
            **{f"probability_{name}": values for name, values in zip(names, predictions.probabilities.T)},
            "split": [split] * count,
            "run": [self.path.name] * count,
        }
        with replacing(self.predictions_file(split)) as partial:
            pq.write_table(pa.table(columns), partial)

    def predictions(self, split: str) -> Predictions:
        """Read the predictions table.

        Raises:
            UserError: there is none.
        """
        path = self.predictions_file(split)
        if not path.is_file():
            raise UserError(f"{path} not found: make it with `clfa evaluate {self} --split {split}`")
        table = pq.read_table(path).to_pydict()
        names = [name.removeprefix("probability_") for name in table if name.startswith("probability_")]
        number = {name: place for place, name in enumerate(names)}
        labels = np.array([number[name] for name in table["label"]], dtype=np.int64)
        probabilities = np.stack([table[f"probability_{name}"] for name in names], axis=1)
        predicted = np.array([number[name] for name in table["predicted"]], dtype=np.int64)
        return Predictions(table["id"], names, labels, probabilities, predicted)


def _environment() -> dict[str, Any]:
    """What a run is made with."""
    import torch
    import transformers

    return {
        "clfa": clfa.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
